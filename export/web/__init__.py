"""Site: a folder in which a browser hears, reads and answers by itself; `ifmmin-bundle web`."""
