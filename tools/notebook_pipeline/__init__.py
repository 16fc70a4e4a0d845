"""From text notebooks (`book/*.md`) to the executed notebooks beside them and to the book's outputs."""
