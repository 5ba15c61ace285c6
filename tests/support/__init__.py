"""What the Python tests share: processes of the store under test, networks of their own, and waiting without sleeping."""
