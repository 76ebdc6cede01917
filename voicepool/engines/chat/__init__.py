"""What the engines that talk to a language model server share."""
