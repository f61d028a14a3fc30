package dev.perse;

import java.util.Arrays;
import java.util.Collections;
import java.util.List;

/**
 * An artifact at work: classifies images, remembers some with what they show, and learns from them.
 *
 * <p>Methods wait for each other; learn() takes seconds to minutes. To go on classifying meanwhile, learn with a second
 * Perse on the same folder and call reload() on the first when it is done. Every method throws PerseException.
 */
public final class Perse implements AutoCloseable {
    static {
        System.loadLibrary("perse_jni");
    }

    /** The network's answer to one image. */
    public static final class Answer {
        public final int label;
        public final String name;
        public final double confidence;
        public final int exit;
        public final int stages;

        Answer(double[] found, List<String> classes) {
            label = (int) found[0];
            name = classes.get(label);
            confidence = found[1];
            exit = (int) found[2];
            stages = (int) found[3];
        }
    }

    /** What learning gave, by images that the judged heads did not learn from. Cost 1 is all of the network. */
    public static final class Report {
        public final boolean better;
        public final String verdict;
        public final double accuracyBefore;
        public final double accuracyAfter;
        public final double costBefore;
        public final double costAfter;

        Report(double[] found, String verdict) {
            better = found[0] == 0;
            this.verdict = verdict;
            accuracyBefore = found[1];
            accuracyAfter = found[2];
            costBefore = found[3];
            costAfter = found[4];
        }
    }

    /** Hears from learn() often, in the thread that called it; false stops, and nothing has changed then. */
    public interface Progress {
        boolean goOn(String phase, int done, int total);
    }

    public static final int FEWEST = 20; // images to learn from

    public final int height;
    public final int width;
    public final int channels;
    public final int exits;
    public final List<String> classes;

    private long handle;

    /** @param folder holds backbone.bin, and may be written to
     *  @param threads that classify and learn; 0 for one per core */
    public Perse(String folder, int threads) {
        handle = open(folder, threads);
        int[] shape = shape(handle);
        height = shape[0];
        width = shape[1];
        channels = shape[2];
        exits = shape[3];
        classes = Collections.unmodifiableList(Arrays.asList(classNames(handle)));
    }

    /** @param image pixels row by row, the channels of each together, 0 to 255 */
    public synchronized Answer classify(byte[] image) {
        return new Answer(run(handle(), image), classes);
    }

    /** Keeps what learning needs of the image, not the image, in a file of 32 MB at most; -1 if it is not known what it
     *  shows. Gives how many are kept. */
    public synchronized int remember(byte[] image, int label) {
        return remember(handle(), image, label);
    }

    /** How many images are kept. */
    public synchronized int remembered() {
        return remembered(handle());
    }

    /** New heads from all that is remembered. Better ones are in use and on disk from here on, others are dropped.
     *  Null if progress said stop. */
    public synchronized Report learn(Progress progress) {
        double[] found = learn(handle(), progress);
        return found == null ? null : new Report(found, verdict((int) found[0]));
    }

    /** The heads on disk, which another Perse may have written. */
    public synchronized void reload() {
        reload(handle());
    }

    /** The heads of before; once more brings back those of now. */
    public synchronized void undo() {
        undo(handle());
    }

    @Override
    public synchronized void close() {
        if (handle != 0) {
            close(handle);
            handle = 0;
        }
    }

    private long handle() {
        if (handle == 0) {
            throw new PerseException("this Perse is closed");
        }
        return handle;
    }

    private static native long open(String folder, int threads);

    private static native void close(long handle);

    private static native int[] shape(long handle);

    private static native String[] classNames(long handle);

    private static native double[] run(long handle, byte[] image);

    private static native int remember(long handle, byte[] image, int label);

    private static native int remembered(long handle);

    private static native double[] learn(long handle, Progress progress);

    private static native String verdict(int verdict);

    private static native void reload(long handle);

    private static native void undo(long handle);
}
