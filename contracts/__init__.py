"""What crosses a process border: types, errors, ports and settings. Standard library and pydantic only."""
