"""Android's classes as far as the example uses them, by their reference: enough for javac to check its types."""

from __future__ import annotations

import re
from pathlib import Path

from tests.android.sources import JAVA, MAIN

STUBS = {
    "android.app.Activity": """public class Activity extends android.content.Context {
        public static final int RESULT_OK = -1;
        protected void onCreate(android.os.Bundle state) {}
        protected void onResume() {}
        protected void onDestroy() {}
        protected void onActivityResult(int what, int result, android.content.Intent data) {}
        public void setContentView(int layout) {}
        public <T extends android.view.View> T findViewById(int id) { return null; }
        public void startActivityForResult(android.content.Intent intent, int what) {}
        public final void runOnUiThread(Runnable task) {}
    }""",
    "android.app.job.JobInfo": """public class JobInfo {
        public static final class Builder {
            public Builder(int id, android.content.ComponentName service) {}
            public Builder setPeriodic(long milliseconds) { return this; }
            public Builder setRequiresCharging(boolean wanted) { return this; }
            public Builder setRequiresDeviceIdle(boolean wanted) { return this; }
            public JobInfo build() { return null; }
        }
    }""",
    "android.app.job.JobParameters": "public class JobParameters {}",
    "android.app.job.JobScheduler": "public abstract class JobScheduler { public abstract int schedule(JobInfo job); }",
    "android.app.job.JobService": """public abstract class JobService extends android.content.Context {
        public abstract boolean onStartJob(JobParameters parameters);
        public abstract boolean onStopJob(JobParameters parameters);
        public final void jobFinished(JobParameters parameters, boolean again) {}
    }""",
    "android.content.ActivityNotFoundException": "public class ActivityNotFoundException extends RuntimeException {}",
    "android.content.ComponentName": "public class ComponentName { public ComponentName(Context c, Class<?> k) {} }",
    "android.content.ContentResolver": "public abstract class ContentResolver {}",
    "android.content.Context": """public abstract class Context {
        public java.io.File getFilesDir() { return null; }
        public String getPackageCodePath() { return null; }
        public android.content.res.AssetManager getAssets() { return null; }
        public ContentResolver getContentResolver() { return null; }
        public final <T> T getSystemService(Class<T> service) { return null; }
        public final String getString(int id, Object... values) { return null; }
    }""",
    "android.content.Intent": """public class Intent {
        public static final String ACTION_GET_CONTENT = "", CATEGORY_OPENABLE = "";
        public Intent(String action) {}
        public Intent setType(String type) { return this; }
        public Intent addCategory(String category) { return this; }
        public android.os.Bundle getExtras() { return null; }
        public android.net.Uri getData() { return null; }
    }""",
    "android.content.res.AssetManager": """public final class AssetManager {
        public java.io.InputStream open(String name) throws java.io.IOException { return null; }
    }""",
    "android.graphics.Bitmap": """public final class Bitmap {
        public int getWidth() { return 0; }
        public int getHeight() { return 0; }
        public static Bitmap createScaledBitmap(Bitmap from, int width, int height, boolean filter) { return null; }
        public void getPixels(int[] to, int offset, int stride, int x, int y, int width, int height) {}
    }""",
    "android.graphics.ImageDecoder": """public final class ImageDecoder {
        public static final int ALLOCATOR_SOFTWARE = 1;
        public static abstract class Source {}
        public static class ImageInfo { public android.util.Size getSize() { return null; } }
        public interface OnHeaderDecodedListener { void onHeaderDecoded(ImageDecoder d, ImageInfo i, Source s); }
        public static Source createSource(android.content.ContentResolver from, android.net.Uri uri) { return null; }
        public static Bitmap decodeBitmap(Source from, OnHeaderDecodedListener listener) throws java.io.IOException {
            return null;
        }
        public void setAllocator(int allocator) {}
        public void setTargetSampleSize(int size) {}
    }""",
    "android.net.Uri": "public abstract class Uri {}",
    "android.os.Bundle": "public final class Bundle { public Object get(String key) { return null; } }",
    "android.provider.MediaStore": 'public class MediaStore { public static final String ACTION_IMAGE_CAPTURE = ""; }',
    "android.util.Log": """public final class Log {
        public static int i(String tag, String text) { return 0; }
        public static int w(String tag, Throwable error) { return 0; }
    }""",
    "android.util.Size": """public final class Size {
        public int getWidth() { return 0; }
        public int getHeight() { return 0; }
    }""",
    "android.view.View": """public class View {
        public interface OnClickListener { void onClick(View view); }
        public void setOnClickListener(OnClickListener listener) {}
        public void setEnabled(boolean enabled) {}
    }""",
    "android.widget.Adapter": "public interface Adapter {}",
    "android.widget.ArrayAdapter": """public class ArrayAdapter<T> implements SpinnerAdapter {
        public ArrayAdapter(android.content.Context context, int layout, java.util.List<T> values) {}
    }""",
    "android.widget.ImageView": """public class ImageView extends android.view.View {
        public void setImageBitmap(android.graphics.Bitmap picture) {}
    }""",
    "android.widget.Spinner": """public class Spinner extends android.view.View {
        public void setAdapter(SpinnerAdapter adapter) {}
        public void setSelection(int position) {}
        public int getSelectedItemPosition() { return 0; }
    }""",
    "android.widget.SpinnerAdapter": "public interface SpinnerAdapter extends Adapter {}",
    "android.widget.TextView": """public class TextView extends android.view.View {
        public void setText(CharSequence text) {}
    }""",
    "android.R": """public final class R {
        public static class layout { public static int simple_spinner_dropdown_item; }
    }""",
}


def write_stubs(folder: Path) -> list[Path]:
    """Sources of Android's classes, and of the R that its build makes from the resources."""
    written = []
    for name, body in {**STUBS, "dev.perse.demo.R": _resources()}.items():
        package, _, own = name.rpartition(".")
        path = folder / package.replace(".", "/") / f"{own}.java"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"package {package};\n{body}\n")
        written.append(path)
    return written


def _resources() -> str:
    text = "".join(path.read_text() for path in sorted((MAIN / "res").rglob("*.xml")))
    names = {"id": re.findall(r"@\+id/(\w+)", text), "string": re.findall(r'<string name="(\w+)"', text)}
    names["layout"] = [path.stem for path in (MAIN / "res" / "layout").glob("*.xml")]
    inside = "".join(
        f"public static final class {kind} {{ public static int {', '.join(dict.fromkeys(own))}; }}\n"
        for kind, own in names.items()
    )
    return f"public final class R {{\n{inside}}}"


def app_sources() -> list[Path]:
    return sorted(JAVA.rglob("*.java"))
