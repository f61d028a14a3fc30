package dev.perse.demo;

import android.content.Context;
import java.io.DataInputStream;
import java.io.EOFException;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;

/** Where the app keeps backbone.bin, which comes with it, and heads.pack, which learning writes beside it. */
final class Artifact {
    private static final String BACKBONE = "backbone.bin";

    private Artifact() {}

    static synchronized String folder(Context context) throws IOException {
        Path folder = Files.createDirectories(new File(context.getFilesDir(), "artifact").toPath());
        Path backbone = folder.resolve(BACKBONE);
        long installed = new File(context.getPackageCodePath()).lastModified();
        if (backbone.toFile().lastModified() < installed && !isShipped(context, backbone)) {
            for (String heads : new String[] {"heads.pack", "heads.pack.previous", "cache.bin"}) {
                Files.deleteIfExists(folder.resolve(heads)); // of another network
            }
            Path part = folder.resolve(BACKBONE + ".part");
            try (InputStream shipped = context.getAssets().open(BACKBONE)) {
                Files.copy(shipped, part, StandardCopyOption.REPLACE_EXISTING);
            }
            Files.move(part, backbone, StandardCopyOption.REPLACE_EXISTING);
        }
        return folder.toString();
    }

    /** Whether the file is what the app comes with: an update of the app alone loses no heads. */
    private static boolean isShipped(Context context, Path backbone) throws IOException {
        if (!Files.exists(backbone)) {
            return false;
        }
        byte[] ours = new byte[1 << 16];
        byte[] theirs = new byte[1 << 16];
        try (DataInputStream kept = new DataInputStream(Files.newInputStream(backbone));
                InputStream shipped = context.getAssets().open(BACKBONE)) {
            for (int count; (count = shipped.read(theirs)) >= 0; ) {
                kept.readFully(ours, 0, count);
                if (!ByteBuffer.wrap(ours, 0, count).equals(ByteBuffer.wrap(theirs, 0, count))) {
                    return false;
                }
            }
            return kept.read() < 0;
        } catch (EOFException shorter) {
            return false;
        }
    }
}
