"""The revisions, oldest first; a file that was released is never changed."""
