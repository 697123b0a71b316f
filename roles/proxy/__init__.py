"""nginx in front of an application: HTTPS, websockets, upload size."""
