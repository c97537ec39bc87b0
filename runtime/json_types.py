"""Values that JSON files may hold, by their range."""

from typing import Annotated

from msgspec import Meta

Size = Annotated[int, Meta(gt=0, lt=2**31)]
Counted = Annotated[int, Meta(gt=0, le=2**14)]
"""What is counted one by one; the largest models have some hundred."""
Id = Annotated[int, Meta(ge=0, lt=2**32)]
Switch = Annotated[int, Meta(ge=0, le=1)]
Ids = Id | list[Id] | None
Number = Annotated[float, Meta(gt=1e-38, lt=3e38)]
"""Above 0, and within float32, in which engines compute and containers keep it."""
Finite = Annotated[float, Meta(gt=-3e38, lt=3e38)]
Numbered = Annotated[str, Meta(pattern="^[^%]*%d[^%]*$")]
"""A name with a place for a layer's number."""
