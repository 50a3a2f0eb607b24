"""What a script may reach: what is granted to it, and the means of the kernel that hold it there."""
