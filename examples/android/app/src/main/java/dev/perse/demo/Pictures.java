package dev.perse.demo;

import android.graphics.Bitmap;
import dev.perse.Perse;

/** Pictures as the network takes them: the middle, as large as fits, in its size. */
final class Pictures {
    private Pictures() {}

    static byte[] pixels(Bitmap picture, Perse perse) {
        double scale = scale(picture, perse);
        while (scale <= 0.5) { // one step of bilinear scaling would look at some pixels only
            picture = Bitmap.createScaledBitmap(picture, picture.getWidth() / 2, picture.getHeight() / 2, true);
            scale = scale(picture, perse);
        }
        int width = Math.max(perse.width, (int) Math.round(scale * picture.getWidth()));
        int height = Math.max(perse.height, (int) Math.round(scale * picture.getHeight()));
        Bitmap scaled = Bitmap.createScaledBitmap(picture, width, height, true);
        int left = (width - perse.width) / 2;
        int top = (height - perse.height) / 2;
        int[] colours = new int[perse.width * perse.height];
        scaled.getPixels(colours, 0, perse.width, left, top, perse.width, perse.height);
        return bytes(colours, perse.channels);
    }

    private static double scale(Bitmap picture, Perse perse) {
        return Math.max((double) perse.width / picture.getWidth(), (double) perse.height / picture.getHeight());
    }

    private static byte[] bytes(int[] colours, int channels) {
        byte[] bytes = new byte[colours.length * channels];
        for (int i = 0; i < colours.length; i++) {
            int red = colours[i] >> 16 & 255;
            int green = colours[i] >> 8 & 255;
            int blue = colours[i] & 255;
            if (channels == 1) {
                bytes[i] = (byte) ((299 * red + 587 * green + 114 * blue + 500) / 1000);
            } else {
                bytes[3 * i] = (byte) red;
                bytes[3 * i + 1] = (byte) green;
                bytes[3 * i + 2] = (byte) blue;
            }
        }
        return bytes;
    }
}
