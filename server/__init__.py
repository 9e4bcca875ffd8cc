"""Between a socket and the application: limits, time-outs and the number of connections."""
