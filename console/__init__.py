"""The operators' console: server-rendered pages for the person on call, in a process of its own."""
