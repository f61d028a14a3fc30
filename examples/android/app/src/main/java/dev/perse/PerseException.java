package dev.perse;

/** What went wrong, with which file, and what to do about it. */
public final class PerseException extends RuntimeException {
    private static final long serialVersionUID = 1;

    public PerseException(String message) {
        super(message);
    }
}
