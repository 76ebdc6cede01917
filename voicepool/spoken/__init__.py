"""What is said of what a language model writes: markup, links, numbers and signs as words."""
