"""Pictures to start from: read in processes of their own, bounded in memory and time, and fair between tenants.

`header` and `cover` say what a picture is and what it costs; `prepare` and `colour` make the PNG, inside the child process that
`__main__` is; `turns` decides whose picture is next; `decoders` runs it all from the API's event loop. Only the child loads Pillow.
"""
