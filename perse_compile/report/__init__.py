"""What a person would rather look at: figures of a program or an artifact, and the page that shows them."""
