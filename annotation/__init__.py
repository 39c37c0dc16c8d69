"""Expert review in Label Studio: the server, the page, the way there and back."""
