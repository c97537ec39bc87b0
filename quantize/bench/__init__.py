"""How fast a file runs here: prompt, generation, loading and memory, alone or against llama.cpp."""
