"""What is fetched before a program asks for it: listings, small files, streams."""
