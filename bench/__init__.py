"""Side by side with sshfs, rclone and ssh itself: same server, same files, one run."""
