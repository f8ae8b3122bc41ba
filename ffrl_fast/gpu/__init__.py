"""What the GPU backends share: the engines' interface, the operators that reach them, paths over single moments."""
