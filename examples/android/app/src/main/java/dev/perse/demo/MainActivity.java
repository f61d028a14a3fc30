package dev.perse.demo;

import android.app.Activity;
import android.content.ActivityNotFoundException;
import android.content.Intent;
import android.graphics.Bitmap;
import android.graphics.ImageDecoder;
import android.os.Bundle;
import android.provider.MediaStore;
import android.view.View;
import android.widget.ArrayAdapter;
import android.widget.ImageView;
import android.widget.Spinner;
import android.widget.TextView;
import dev.perse.Perse;
import dev.perse.PerseException;
import java.io.IOException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/** Says what a picture shows, is told what it shows, and learns in the background. */
public final class MainActivity extends Activity {
    private static final int CAMERA = 1;
    private static final int GALLERY = 2;

    private interface Task {
        void run() throws IOException;
    }

    private final ExecutorService quick = Executors.newSingleThreadExecutor(); // whatever uses `perse`, in order
    private final ExecutorService slow = Executors.newSingleThreadExecutor();
    private volatile boolean gone;
    private Perse perse; // of the thread of `quick`, as the pixels are
    private byte[] pixels;

    @Override
    protected void onCreate(Bundle state) {
        super.onCreate(state);
        setContentView(R.layout.main);
        findViewById(R.id.camera).setOnClickListener(view -> ask(new Intent(MediaStore.ACTION_IMAGE_CAPTURE), CAMERA));
        findViewById(R.id.gallery).setOnClickListener(view -> ask(pictures(), GALLERY));
        findViewById(R.id.remember).setOnClickListener(view -> remember());
        findViewById(R.id.learn).setOnClickListener(view -> in(slow, this::learn));
        findViewById(R.id.undo).setOnClickListener(view -> in(quick, () -> {
            perse().undo();
            classify();
        }));
        in(quick, this::open);
        LearnJob.schedule(this);
    }

    @Override
    protected void onResume() {
        super.onResume();
        in(quick, () -> perse().reload()); // LearnJob may have learnt
    }

    @Override
    protected void onDestroy() {
        gone = true;
        quick.execute(() -> {
            if (perse != null) {
                perse.close();
            }
        });
        quick.shutdown();
        slow.shutdown();
        super.onDestroy();
    }

    // --- pictures ---

    private static Intent pictures() {
        return new Intent(Intent.ACTION_GET_CONTENT).setType("image/*").addCategory(Intent.CATEGORY_OPENABLE);
    }

    private void ask(Intent intent, int what) {
        try {
            startActivityForResult(intent, what);
        } catch (ActivityNotFoundException error) {
            say(String.valueOf(error.getMessage()));
        }
    }

    @Override
    protected void onActivityResult(int what, int result, Intent data) {
        if (result != RESULT_OK || data == null) {
            return;
        }
        in(quick, () -> {
            Bitmap picture = what == CAMERA ? (Bitmap) data.getExtras().get("data") : decoded(data);
            if (picture == null) {
                return;
            }
            pixels = Pictures.pixels(picture, perse());
            runOnUiThread(() -> {
                this.<ImageView>findViewById(R.id.picture).setImageBitmap(picture);
                findViewById(R.id.remember).setEnabled(true);
            });
            classify();
        });
    }

    /** Upright, and not much larger than a screen. */
    private Bitmap decoded(Intent data) throws IOException {
        ImageDecoder.Source source = ImageDecoder.createSource(getContentResolver(), data.getData());
        return ImageDecoder.decodeBitmap(source, (decoder, info, from) -> {
            decoder.setAllocator(ImageDecoder.ALLOCATOR_SOFTWARE); // pixels can be read
            int longest = Math.max(info.getSize().getWidth(), info.getSize().getHeight());
            decoder.setTargetSampleSize(Math.max(1, longest / 1024));
        });
    }

    // --- on the thread of `quick` ---

    private void open() throws IOException {
        perse = new Perse(Artifact.folder(this), 0);
        int remembered = perse.remembered();
        runOnUiThread(() -> {
            Spinner labels = findViewById(R.id.label);
            labels.setAdapter(new ArrayAdapter<>(this, android.R.layout.simple_spinner_dropdown_item, perse.classes));
            say(getString(R.string.remembered, remembered));
        });
    }

    private Perse perse() throws IOException {
        if (perse == null) {
            throw new IOException("the artifact is not open");
        }
        return perse;
    }

    private void classify() throws IOException {
        if (pixels == null) {
            return;
        }
        Perse.Answer answer = perse().classify(pixels);
        String text = getString(R.string.answer, answer.name, 100 * answer.confidence, answer.stages, perse.exits);
        runOnUiThread(() -> {
            this.<TextView>findViewById(R.id.answer).setText(text);
            this.<Spinner>findViewById(R.id.label).setSelection(answer.label);
        });
    }

    private void remember() {
        int label = this.<Spinner>findViewById(R.id.label).getSelectedItemPosition();
        in(quick, () -> say(getString(R.string.remembered, perse().remember(pixels, label))));
    }

    // --- on the thread of `slow` ---

    /** With heads of its own, so that pictures are still classified; with one thread, so that the phone stays cool. */
    private void learn() throws IOException {
        try (Perse own = new Perse(Artifact.folder(this), 1)) {
            Perse.Report report = own.learn((phase, done, total) -> {
                say(getString(R.string.learning, phase, done, total));
                return !gone;
            });
            if (report == null) {
                return;
            }
            say(getString(R.string.learnt, report.verdict, report.accuracyBefore, report.accuracyAfter,
                    report.costBefore, report.costAfter));
        }
        if (!gone) {
            in(quick, () -> {
                perse().reload();
                classify();
            });
        }
    }

    // --- both ---

    private void in(ExecutorService where, Task task) {
        where.execute(() -> {
            try {
                task.run();
            } catch (IOException | PerseException error) {
                say(String.valueOf(error.getMessage()));
            }
        });
    }

    private void say(String text) {
        runOnUiThread(() -> this.<TextView>findViewById(R.id.state).setText(text));
    }
}
