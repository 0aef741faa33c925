"""How fast is a search beside what people use today? `python -m tests.benchmarks` measures it and says so."""
