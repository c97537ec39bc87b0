"""Values that JSON files may hold, by their range."""

from typing import Annotated

from msgspec import Meta

Size = Annotated[int, Meta(gt=0, lt=2**31)]
Counted = Annotated[int, Meta(gt=0, le=2**14)]
"""What is counted one by one; the largest models have some hundred."""
Id = Annotated[int, Meta(ge=0, lt=2**32)]
Switch = Annotated[int, Meta(ge=0, le=1)]
Ids = Id | list[Id] | None
Number = Annotated[float, Meta(gt=0, lt=1e300)]
Finite = Annotated[float, Meta(gt=-1e300, lt=1e300)]
Numbered = Annotated[str, Meta(pattern="^[^%]*%d[^%]*$")]
"""A name with a place for a layer's number."""
