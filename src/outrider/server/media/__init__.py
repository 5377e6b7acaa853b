"""Images of requests that are at addresses of other hosts, where the server may fetch them."""
