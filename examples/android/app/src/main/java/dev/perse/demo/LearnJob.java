package dev.perse.demo;

import android.app.job.JobInfo;
import android.app.job.JobParameters;
import android.app.job.JobScheduler;
import android.app.job.JobService;
import android.content.ComponentName;
import android.content.Context;
import android.util.Log;
import dev.perse.Perse;
import dev.perse.PerseException;
import java.io.IOException;
import java.util.concurrent.TimeUnit;

/** Learns once a day from all that is remembered, while the phone is charging and nobody uses it. */
public final class LearnJob extends JobService {
    private volatile boolean stopped;

    static void schedule(Context context) {
        JobInfo job = new JobInfo.Builder(1, new ComponentName(context, LearnJob.class))
                .setPeriodic(TimeUnit.DAYS.toMillis(1))
                .setRequiresCharging(true)
                .setRequiresDeviceIdle(true)
                .build();
        context.getSystemService(JobScheduler.class).schedule(job);
    }

    @Override
    public boolean onStartJob(JobParameters parameters) {
        stopped = false;
        new Thread(() -> {
            learn();
            jobFinished(parameters, false);
        }).start();
        return true;
    }

    @Override
    public boolean onStopJob(JobParameters parameters) {
        stopped = true;
        return true; // again when the phone is idle
    }

    private void learn() {
        try (Perse perse = new Perse(Artifact.folder(this), 1)) {
            if (perse.remembered() >= Perse.FEWEST) {
                Perse.Report report = perse.learn((phase, done, total) -> !stopped);
                Log.i("perse", report == null ? "stopped" : report.verdict);
            }
        } catch (IOException | PerseException error) {
            Log.w("perse", error);
        }
    }
}
