import dev.perse.Perse;
import dev.perse.PerseException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.IntBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;

/** usage: Host ARTIFACT IMAGES LABELS, as learn.c of docs/library.md takes them: the app's work without an app. */
public final class Host {
    private interface Task {
        void run();
    }

    private static void fails(Task task) {
        try {
            task.run();
            System.out.println("no exception");
        } catch (PerseException | IllegalStateException error) {
            System.out.println(error.getMessage());
        }
    }

    private static void show(Perse perse, byte[][] images, int[] labels) {
        int right = 0;
        int stages = 0;
        for (int i = 0; i < images.length; i++) {
            Perse.Answer answer = perse.classify(images[i]);
            right += answer.label == labels[i] ? 1 : 0;
            stages += answer.stages;
        }
        Perse.Answer first = perse.classify(images[0]);
        System.out.printf("%s %.4f %d %d; %d right, %d stages%n", first.name, first.confidence, first.exit, first.stages, right, stages);
    }

    public static void main(String[] words) throws IOException {
        byte[] all = Files.readAllBytes(Path.of(words[1]));
        IntBuffer given = ByteBuffer.wrap(Files.readAllBytes(Path.of(words[2]))).order(ByteOrder.LITTLE_ENDIAN).asIntBuffer();
        int[] labels = new int[given.remaining()];
        given.get(labels);
        byte[][] images = new byte[labels.length][];
        try (Perse perse = new Perse(words[0], 2); Perse learner = new Perse(words[0], 1)) {
            System.out.printf("%d %d %d %d %s%n", perse.height, perse.width, perse.channels, perse.exits, perse.classes);
            for (int i = 0; i < images.length; i++) {
                images[i] = Arrays.copyOfRange(all, i * all.length / images.length, (i + 1) * all.length / images.length);
            }
            perse.reload();
            show(perse, images, labels);
            for (int i = 0; i < 10; i++) {
                perse.remember(images[i], labels[i]);
            }
            fails(() -> perse.learn(null));
            for (int i = 10; i < images.length; i++) {
                perse.remember(images[i], labels[i]);
            }
            System.out.println(perse.remembered());
            System.out.println(learner.learn((phase, done, total) -> false) == null);
            fails(() -> learner.learn((phase, done, total) -> {
                throw new IllegalStateException("from the listener: " + phase);
            }));
            int[] told = {0};
            Perse.Report report = learner.learn((phase, done, total) -> done <= total && told[0]++ >= 0);
            System.out.printf("%s: %b, %.4f %.4f %.4f %.4f, told %b%n", report.verdict, report.better, report.accuracyBefore,
                    report.accuracyAfter, report.costBefore, report.costAfter, told[0] > 10);
            perse.reload();
            show(perse, images, labels);
            perse.undo();
            show(perse, images, labels);
            fails(() -> perse.classify(new byte[3]));
            fails(() -> perse.remember(images[0], 99));
            fails(() -> perse.classify(null));
            fails(() -> new Perse("/nowhere/\u00e9", 1));
            fails(() -> new Perse(words[0], 1000));
            perse.close();
            fails(() -> perse.classify(images[0]));
        }
    }
}
