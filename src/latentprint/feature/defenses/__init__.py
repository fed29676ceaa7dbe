"""Defences of split inference, one idea a file."""
