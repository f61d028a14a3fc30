/* test_kinds.c - part of test_runtime.c: images from two cameras, without labels. */

/* Moves what sample i is to both early exits by `far` in a direction that their heads do not see: strange, and answered as before. */
static void make_strange(perse *p, int i, float far) {
    for (uint32_t e = 0, offset = 0; e + 1 < EXITS; offset += p->plan->exit[e++].features) {
        const perse_head *head = &p->spare.exit[e].head;
        uint32_t width = p->plan->exit[e].features;
        double seen[KNOWN][FEATURES], away[FEATURES], length = 0;
        for (uint32_t j = 0; j < width; j++) away[j] = (j % 3) - 1.0;
        for (int k = 0; k <= KNOWN; k++) { /* Gram and Schmidt; the last is what is left */
            double *v = k < KNOWN ? seen[k] : away, square = 0;
            for (uint32_t j = 0; k < KNOWN && j < width; j++) v[j] = (double)(head->scale[j] * head->weight[j * K + (uint32_t)k]);
            for (int before = 0; before < k; before++) {
                double dot = 0;
                for (uint32_t j = 0; j < width; j++) dot += v[j] * seen[before][j];
                for (uint32_t j = 0; j < width; j++) v[j] -= dot * seen[before][j];
            }
            for (uint32_t j = 0; j < width; j++) square += v[j] * v[j];
            for (uint32_t j = 0; j < width; j++) v[j] /= sqrt(square);
        }
        for (uint32_t j = 0; j < width; j++) length += pow(away[j] * (double)head->scale[j], 2);
        for (uint32_t j = 0; j < width; j++) features[(uint32_t)i * FEATURES + offset + j] += far * (float)(away[j] / sqrt(length));
    }
}

/* Every sample but the first of `turns` in a row is as from another camera, the further the later: of it every exit sees the first sample. */
static void spoil(perse *p, int turns) {
    float first[FEATURES];
    memcpy(first, features, sizeof first);
    EXPECT(PERSE_OK, perse_factory(p, &p->spare));
    for (int i = 0; i < USERS; i++) {
        if (i % turns == 0) continue;
        memcpy(features + i * FEATURES, first, sizeof first);
        make_strange(p, i, 60 * (float)(i % turns * i % turns));
    }
}

/* Cameras whose images the network cannot read are left out: as though these were not there. */
static void test_unreadable_cameras(void) {
    for (int trial = 0; trial < 4; trial++) {
        bool near = trial % 2 == 1; /* answers evened out; else frequencies */
        int turns = trial < 2 ? 2 : 3, kept = USERS / turns;
        perse *p = open_with(1);
        perse_fit_options o = perse_fit_defaults();
        perse_report mixed, alone;
        perse_exit_report exits[EXITS];
        load_user(p, near ? "user.raw" : "generic.raw");
        spoil(p, turns);
        EXPECT(PERSE_OK, fit_with(p, USERS, NULL, &o, &mixed));
        memcpy(exits, exit_reports, sizeof exits);
        CHECK(mixed.left_out == (uint32_t)(USERS - kept) && mixed.train == (uint32_t)kept && mixed.judged == (uint32_t)kept);
        EXPECT(PERSE_OK, perse_reset_pack(p));
        for (int i = 0; i < kept; i++) memmove(features + i * FEATURES, features + turns * i * FEATURES, FEATURES * sizeof *features);
        EXPECT(PERSE_OK, fit_with(p, (uint32_t)kept, NULL, &o, &alone));
        CHECK(turns == 3 || alone.teacher == (near ? PERSE_TEACHER_NEAR : PERSE_TEACHER_PRIOR));
        CHECK(alone.left_out == 0 && alone.teacher == mixed.teacher && alone.verdict == mixed.verdict);
        CHECK(memcmp(&alone.after, &mixed.after, sizeof alone.after) == 0);
        for (int e = 0; e < EXITS; e++) CHECK(exits[e].threshold == exit_reports[e].threshold && exits[e].last_loss == exit_reports[e].last_loss);
        perse_close(p);
    }
}

/* Not what is strange, but an early exit reads; not after labels have taught the final exit more than the factory's. */
static void test_cameras_that_are_read(void) {
    enum { FINAL = FEATURES - 32 };
    for (int taught = 0; taught < 2; taught++) {
        perse *p = open_with(1);
        perse_fit_options o = perse_fit_defaults();
        perse_report r;
        load_user(p, "generic.raw");
        if (taught) EXPECT(PERSE_OK, fit_with(p, USERS, labels, &o, &r));
        EXPECT(PERSE_OK, perse_factory(p, &p->spare));
        if (taught) spoil(p, 2);
        for (int i = 1; i < USERS && !taught; i += 2) {
            make_strange(p, i, 60);
            memcpy(features + i * FEATURES + FINAL, features + FINAL, 32 * sizeof *features);
        }
        EXPECT(PERSE_OK, fit_with(p, USERS, NULL, &o, &r));
        CHECK(r.left_out == 0 && r.train == USERS);
        perse_close(p);
    }
}

/* Heads that are better for all images together may not go live where they go by a teacher whom one camera's images contradict. */
static void test_two_cameras_are_judged_one_by_one(void) {
    enum { FINAL = FEATURES - 32, PART = 8 }; /* one in so many is from the other camera, where early exits see another class */
    float seen[USERS][FINAL];
    for (int strange = 0; strange < 2; strange++) {
        perse *p = open_with(1);
        perse_fit_options o = perse_fit_defaults();
        perse_report r;
        load_user(p, "generic.raw");
        EXPECT(PERSE_OK, perse_factory(p, &p->spare));
        for (int i = 0; i < USERS; i++) memcpy(seen[i], features + i * FEATURES, sizeof seen[i]);
        for (int i = 1; i < USERS; i += PART) { /* each other class as often as before */
            int other = i;
            for (int step = 0; labels[other] == labels[i] && step < USERS / PART; step++) other = (other + PART) % (USERS / PART * PART);
            memcpy(features + i * FEATURES, seen[other], sizeof seen[other]);
            if (strange) make_strange(p, i, 60);
        }
        EXPECT(PERSE_OK, fit_with(p, USERS, NULL, &o, &r));
        CHECK(r.left_out == 0 && r.train == USERS && r.teacher == PERSE_TEACHER_PRIOR);
        CHECK(r.verdict == (strange ? PERSE_CONTRADICTED : PERSE_BETTER));
        perse_close(p);
    }
}

/* An early exit that nobody asks, and that tells as much as the final one of other classes: one of the two does not understand the images. */
static void test_exits_that_contradict_each_other(void) {
    enum { WIDTH = 16 };
    for (int mixed = 0; mixed < 2; mixed++) {
        perse *p = open_with(1);
        perse_fit_options o = perse_fit_defaults();
        perse_report r;
        load_user(p, "user.raw");
        for (int i = 0; i < USERS && mixed; i += 2) { /* as often each class as before */
            float mine[WIDTH];
            int other = i;
            while (other < USERS && labels[other] == labels[i]) other++;
            if (other == USERS) continue;
            memcpy(mine, features + i * FEATURES, sizeof mine);
            memcpy(features + i * FEATURES, features + other * FEATURES, sizeof mine);
            memcpy(features + other * FEATURES, mine, sizeof mine);
        }
        EXPECT(PERSE_OK, perse_set_exit(p, 0, false, p->live.exit[0].temperature, 1));
        EXPECT(PERSE_OK, fit_with(p, USERS, NULL, &o, &r));
        CHECK(r.verdict == (mixed ? PERSE_CONTRADICTED : PERSE_BETTER));
        perse_close(p);
    }
}
