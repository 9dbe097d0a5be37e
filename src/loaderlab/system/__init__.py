"""The machine, the processes and the terminal. Free of torch."""
