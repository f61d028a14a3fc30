/* test_streaming.c - part of test_runtime.c: what an app does as images keep coming. */

/* ---- the feature cache ---- */

static void test_half(void) {
    for (uint32_t h = 0; h < 0x7C00; h++) { /* every finite half, and what lies between it and the next */
        float low = perse_from_half((uint16_t)h), high = h == 0x7BFF ? 65536.0f : perse_from_half((uint16_t)(h + 1));
        float middle = low + (high - low) / 2;
        uint32_t next = h == 0x7BFF ? h : h + 1, even = h % 2 == 0 ? h : next;
        CHECK(low < high && perse_to_half(low) == h && perse_to_half(-low) == (h | 0x8000u));
        CHECK(perse_to_half(nextafterf(middle, low)) == h && perse_to_half(nextafterf(middle, high)) == next);
        CHECK(perse_to_half(middle) == even && perse_to_half(-middle) == (even | 0x8000u));
    }
    CHECK(perse_from_half(0x3C00) == 1 && perse_from_half(0xC000) == -2 && perse_from_half(1) == 0x1p-24f && perse_from_half(0x0400) == 0x1p-14f);
    CHECK(perse_to_half(1e30f) == 0x7BFF && perse_to_half(-1e30f) == 0xFBFF && perse_to_half(1e-30f) == 0);
}

enum { SAMPLE = 8 + 2 * FEATURES, FIXED = 64 + 4 * K + NAMES };
static void *cache_memory;

static perse_status try_cache(perse *p, const char *path, uint64_t samples, perse_cache **c) {
    uint64_t budget = FIXED + samples * SAMPLE;
    size_t size = perse_cache_size(p, budget);
    free(cache_memory);
    cache_memory = malloc(size);
    memset(cache_memory, 0xA5, size);
    return perse_cache_open(p, path, budget, cache_memory, size, c);
}

static perse_cache *open_cache_with(perse *p, uint64_t samples) {
    perse_cache *c;
    EXPECT(PERSE_OK, try_cache(p, NULL, samples, &c));
    return c;
}

static void add(perse_cache *c, int from, int to, bool with_labels) {
    for (int i = from; i < to; i++) EXPECT(PERSE_OK, perse_cache_add(c, features + i * FEATURES, with_labels ? labels[i] : -1));
}

static void count_classes(const perse_cache *c, int *of_class) {
    float kept[FEATURES];
    int32_t label;
    memset(of_class, 0, (K + 1) * sizeof *of_class);
    for (uint32_t i = 0; i < perse_get_cache_info(c).samples; i++) {
        EXPECT(PERSE_OK, perse_cache_get(c, i, kept, &label));
        of_class[label < 0 ? K : label]++;
    }
}

static void test_cache(void) {
    perse *p = open_with(1);
    load_user(p, "user.raw");
    perse_cache *c = open_cache_with(p, USERS);
    CHECK(perse_get_cache_info(c).samples == 0 && perse_get_cache_info(c).room == USERS);
    add(c, 0, 100, true);
    add(c, 100, 150, false);
    add(c, 0, 150, true); /* known already: only the labels are new */
    perse_cache_info info = perse_get_cache_info(c);
    CHECK(info.samples == 150 && info.labelled == 150 && info.bytes == FIXED + 150 * SAMPLE);
    EXPECT(PERSE_OK, perse_cache_save(c));
    perse_cache_close(c);
    c = open_cache_with(p, USERS);
    CHECK(perse_get_cache_info(c).samples == 150 && perse_get_cache_info(c).labelled == 150 && perse_get_cache_info(c).bytes == info.bytes);
    float kept[FEATURES];
    int32_t label;
    for (uint32_t i = 0; i < 150; i++) {
        EXPECT(PERSE_OK, perse_cache_get(c, i, kept, &label));
        CHECK(label == labels[i]);
        for (int f = 0; f < FEATURES; f++) CHECK(kept[f] == perse_from_half(perse_to_half(features[i * FEATURES + (uint32_t)f])));
    }
    add(c, 0, 10, false); /* a label is not lost */
    CHECK(perse_get_cache_info(c).labelled == 150);
    EXPECT(PERSE_BAD_LABEL, perse_cache_add(c, features, KNOWN));
    EXPECT(PERSE_BAD_LABEL, perse_cache_add(c, features, -2));
    EXPECT(PERSE_BAD_ARGUMENT, perse_cache_add(c, NULL, 0));
    EXPECT(PERSE_BAD_ARGUMENT, perse_cache_get(c, 150, kept, &label));
    EXPECT(PERSE_BAD_ARGUMENT, perse_cache_save(NULL));
    kept[5] = NAN;
    EXPECT(PERSE_NAN_INPUT, perse_cache_add(c, kept, 0));
    mock_fail = FAIL_HEAD;
    EXPECT(PERSE_KERNEL_FAILED, perse_cache_add(c, features, 0));
    mock_fail = FAIL_NAN_LOGITS;
    EXPECT(PERSE_KERNEL_FAILED, perse_cache_add(c, features, 0));
    mock_fail = FAIL_NONE;
    CHECK(perse_get_cache_info(c).samples == 150 && perse_cache_size(NULL, 1) == 0);
    perse_cache_close(c);
    perse_cache_close(NULL);
    EXPECT(PERSE_BAD_ARGUMENT, try_cache(p, NULL, 0, &c));
    EXPECT(PERSE_BAD_ARGUMENT, perse_cache_open(p, NULL, 1000, NULL, 0, &c));
    EXPECT(PERSE_BAD_ARGUMENT, perse_cache_open(p, NULL, 10, kept, sizeof kept, &c));
    EXPECT(PERSE_OUT_OF_MEMORY, perse_cache_open(p, NULL, 1000, kept, sizeof kept, &c));
    EXPECT(PERSE_BAD_ARGUMENT, try_cache(p, "/tmp/", 9, &c));
    EXPECT(PERSE_NO_FILE, try_cache(p, "/no/such/folder/cache.bin", 9, &c));
    CHECK(c == NULL);
    perse_close(p);
}

/* What comes in greater numbers gives way to what comes seldom; within a class all that came had the same chance. */
static void test_reservoir(void) {
    perse *p = open_with(1);
    load_user(p, "generic.raw");
    perse_cache *c;
    int of_class[K + 1], rare, early = 0;
    uint8_t *first = NULL;
    size_t size = 0;
    for (int again = 0; again < 2; again++) {
        unlink(path_in(scratch, "cache.bin"));
        c = open_cache_with(p, 40);
        rare = 0;
        for (int i = 0; i < USERS; i++)
            if (labels[i] != 3 || rare++ < 8) add(c, i, i + 1, true); /* 8 of class 3, some 75 of the others */
        EXPECT(PERSE_OK, perse_cache_save(c));
        if (again == 0) first = read_file(scratch, "cache.bin", &size);
        CHECK(same_file("cache.bin", first, size)); /* the same every time */
        count_classes(c, of_class);
        CHECK(of_class[3] == 8 && of_class[0] + of_class[1] + of_class[2] == 32 && size == FIXED + 40 * SAMPLE);
        for (int k = 0; k < 3; k++) CHECK(of_class[k] == 10 || of_class[k] == 11);
        perse_cache_close(c);
    }
    free(first);
    c = open_cache_with(p, 20); /* a smaller budget */
    count_classes(c, of_class);
    CHECK(perse_get_cache_info(c).samples == 20);
    for (int k = 0; k < 4; k++) CHECK(of_class[k] == 5);
    add(c, 0, USERS, false); /* unlabelled ones do not drive out labelled ones, unless their class is rare */
    count_classes(c, of_class);
    CHECK(of_class[0] + of_class[1] + of_class[2] + of_class[3] >= 12);
    perse_cache_close(c);
    unlink(path_in(scratch, "cache.bin"));
    c = open_cache_with(p, 4);
    add(c, 0, USERS, false);
    int32_t label;
    float kept[FEATURES];
    EXPECT(PERSE_OK, perse_cache_get(c, 0, kept, &label));
    CHECK(label == -1);
    add(c, 0, USERS, true); /* labelled ones drive out unlabelled ones */
    CHECK(perse_get_cache_info(c).labelled == 4);
    perse_cache_close(c);
    unlink(path_in(scratch, "cache.bin"));
    c = open_cache_with(p, 100); /* a fair draw over time: 300 of one class for 100 places */
    for (int i = 0; i < USERS; i++) {
        kept[0] = (float)i; /* tells them apart */
        EXPECT(PERSE_OK, perse_cache_add(c, kept, 0));
    }
    for (uint32_t i = 0; i < 100; i++) {
        EXPECT(PERSE_OK, perse_cache_get(c, i, kept, &label));
        early += kept[0] < USERS / 2;
    }
    CHECK(early > 30 && early < 70); /* half of them, give or take five standard deviations */
    perse_cache_close(c);
    perse_close(p);
}

static perse_status open_damaged(perse *p, const uint8_t *bytes, size_t size) {
    perse_cache *c;
    write_file(scratch, "cache.bin", bytes, size);
    perse_status status = try_cache(p, NULL, 60, &c);
    CHECK((status == PERSE_OK) == (c != NULL));
    perse_cache_close(c);
    return status;
}

static perse_status open_patched(perse *p, const uint8_t *whole, size_t size, size_t at, uint32_t value) {
    uint8_t *bytes = malloc(size);
    memcpy(bytes, whole, size);
    memcpy(bytes + at, &value, sizeof value);
    uint32_t crc = perse_crc32(0, bytes + 16, size - 16);
    memcpy(bytes + 12, &crc, sizeof crc);
    perse_status status = open_damaged(p, bytes, size);
    free(bytes);
    return status;
}

static void test_cache_damage(void) {
    perse *p = open_with(1);
    load_user(p, "user.raw");
    perse_cache *c = open_cache_with(p, 60);
    add(c, 0, 50, true);
    EXPECT(PERSE_OK, perse_cache_save(c));
    perse_cache_close(c);
    size_t size;
    uint8_t *whole = read_file(scratch, "cache.bin", &size);
    EXPECT(PERSE_OK, open_damaged(p, whole, size));
    for (size_t cut = 0; cut < size; cut += cut < 200 ? 7 : 331) EXPECT(PERSE_TRUNCATED, open_damaged(p, whole, cut));
    EXPECT(PERSE_TRUNCATED, open_damaged(p, whole, size + 1));
    for (size_t bit = 0; bit < size * 8; bit += bit < 100 * 8 ? 1 : 641) {
        whole[bit / 8] ^= (uint8_t)(1 << bit % 8);
        CHECK(open_damaged(p, whole, size) != PERSE_OK);
        whole[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    whole[size - 1] ^= 1;
    EXPECT(PERSE_BAD_CHECKSUM, open_damaged(p, whole, size));
    whole[size - 1] ^= 1;
    EXPECT(PERSE_BAD_MAGIC, open_patched(p, whole, size, 0, 7));
    EXPECT(PERSE_BAD_VERSION, open_patched(p, whole, size, 8, 7));
    EXPECT(PERSE_WRONG_CACHE, open_patched(p, whole, size, 24, 7));
    EXPECT(PERSE_WRONG_CACHE, open_patched(p, whole, size, 28, 9));
    EXPECT(PERSE_WRONG_CACHE, open_patched(p, whole, size, 32, 7));
    CHECK(strcmp(perse_detail(), "cache.bin") == 0);
    EXPECT(PERSE_BAD_LAYOUT, open_patched(p, whole, size, 36, 49));               /* samples */
    EXPECT(PERSE_BAD_LAYOUT, open_patched(p, whole, size, 60, 1));                /* reserved */
    EXPECT(PERSE_BAD_LAYOUT, open_patched(p, whole, size, FIXED, K));             /* a label */
    EXPECT(PERSE_BAD_LAYOUT, open_patched(p, whole, size, FIXED + 4, K));         /* an answer */
    EXPECT(PERSE_BAD_LAYOUT, open_patched(p, whole, size, FIXED + 8, 0x7C00));    /* an infinite feature */
    EXPECT(PERSE_BAD_LAYOUT, open_patched(p, whole, size, 64 + 4 * (size_t)labels[0], 0)); /* a class that never came */
    unlink(path_in(scratch, "cache.bin"));
    mkdir(path_in(scratch, "cache.bin"), 0755);
    EXPECT(PERSE_IO, try_cache(p, NULL, 60, &c));
    rmdir(path_in(scratch, "cache.bin"));
    free(whole);
    perse_close(p);
}

static void test_cache_trouble(void) {
    perse *p = open_with(1);
    load_user(p, "user.raw");
    perse_cache *c = open_cache_with(p, 60);
    add(c, 0, 30, true);
    EXPECT(PERSE_OK, perse_cache_save(c));
    size_t size;
    uint8_t *whole = read_file(scratch, "cache.bin", &size);
    add(c, 30, 60, true);
    int folder = open(scratch, O_RDONLY);
    CHECK(flock(folder, LOCK_EX) == 0);
    EXPECT(PERSE_BUSY, perse_cache_save(c));
    close(folder);
    mkdir(path_in(scratch, "cache.bin.new"), 0755);
    EXPECT(PERSE_IO, perse_cache_save(c));
    rmdir(path_in(scratch, "cache.bin.new"));
    struct rlimit all, few;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &all);
    for (size_t limit = 0; limit < 2 * size - FIXED; limit += 301) {
        few = (struct rlimit){limit, all.rlim_max};
        setrlimit(RLIMIT_FSIZE, &few);
        perse_status status = perse_cache_save(c);
        setrlimit(RLIMIT_FSIZE, &all);
        EXPECT(PERSE_DISK_FULL, status);
        CHECK(same_file("cache.bin", whole, size) && !exists("cache.bin.new"));
    }
    EXPECT(PERSE_OK, perse_cache_save(c));
    perse_cache_close(c);
    for (int i = 0; i < 20; i++) { /* kill -9 at any moment leaves a cache that opens */
        pid_t child = fork();
        if (child == 0)
            for (c = open_cache_with(p, 60);;)
                if (perse_cache_save(c) != PERSE_OK) _exit(1);
        usleep((useconds_t)(1000 + i * 137));
        kill(child, SIGKILL);
        int status;
        waitpid(child, &status, 0);
        CHECK(WIFSIGNALED(status));
        c = open_cache_with(p, 60);
        CHECK(perse_get_cache_info(c).samples == 60);
        perse_cache_close(c);
    }
    char elsewhere[600];
    snprintf(elsewhere, sizeof elsewhere, "%s/other.bin", scratch);
    EXPECT(PERSE_OK, try_cache(p, elsewhere, 60, &c));
    add(c, 0, 5, true);
    EXPECT(PERSE_OK, perse_cache_save(c));
    CHECK(exists("other.bin") && perse_get_cache_info(c).samples == 5);
    perse_cache_close(c);
    unlink(elsewhere);
    free(whole);
    perse_close(p);
}

/* ---- several packs ---- */

static void test_places(void) {
    perse *p = open_with(1);
    load_user(p, "user.raw");
    perse_fit_options o = perse_fit_defaults();
    perse_report r;
    size_t size, own_size, place_size = perse_place_size(p);
    uint8_t *own = read_file(scratch, "heads.pack", &own_size);
    void *blocks[2] = {malloc(place_size), malloc(place_size)};
    perse_place *anna, *ben;
    EXPECT(PERSE_NO_FILE, perse_open_place(p, "anna", 0, blocks[0], place_size, &anna));
    CHECK(anna == NULL && strcmp(perse_detail(), "packs/anna") == 0);
    EXPECT(PERSE_OK, perse_open_place(p, "anna", PERSE_CREATE, blocks[0], place_size, &anna));
    EXPECT(PERSE_OK, perse_open_place(p, "ben", PERSE_CREATE, blocks[1], place_size, &ben));
    const perse_pack_entry *entries[3] = {p->live.exit, anna->pack.exit, ben->pack.exit};
    EXPECT(PERSE_OK, perse_use_place(p, anna));
    EXPECT(PERSE_OK, fit_with(p, USERS, labels, &o, &r));
    CHECK(r.verdict == PERSE_BETTER && perse_get_info(p).generation == 1);
    EXPECT(PERSE_OK, perse_save_pack(p));
    double hers = accuracy_of(p);
    for (int turn = 0; turn < 3; turn++) { /* every swap is two pointers: nothing is read, nothing copied */
        EXPECT(PERSE_OK, perse_use_place(p, NULL));
        CHECK(p->live.exit == entries[0] && perse_get_info(p).generation == 0 && accuracy_of(p) < hers - 0.1);
        EXPECT(PERSE_OK, perse_use_place(p, ben));
        CHECK(p->live.exit == entries[2] && perse_get_info(p).generation == 0);
        EXPECT(PERSE_OK, perse_use_place(p, anna));
        CHECK(p->live.exit == entries[1] && perse_get_info(p).generation == 1 && accuracy_of(p) == hers);
    }
    CHECK(same_file("heads.pack", own, own_size) && exists("packs/anna/heads.pack") && !exists("packs/ben/heads.pack"));
    perse_cache *c = open_cache_with(p, 60); /* the place's own */
    add(c, 0, 10, true);
    EXPECT(PERSE_OK, perse_cache_save(c));
    CHECK(exists("packs/anna/cache.bin") && !exists("cache.bin"));
    perse_cache_close(c);
    EXPECT(PERSE_OK, perse_rollback_pack(p)); /* to the factory heads, which were in use before there was a file */
    CHECK(perse_get_info(p).generation == 0);
    EXPECT(PERSE_OK, perse_rollback_pack(p));
    CHECK(perse_get_info(p).generation == 1 && accuracy_of(p) == hers);
    perse_close_place(anna); /* in use: the artifact's own takes over */
    CHECK(p->live.exit == entries[0] && perse_get_info(p).generation == 0);
    EXPECT(PERSE_OK, perse_open_place(p, "anna", 0, blocks[0], place_size, &anna));
    EXPECT(PERSE_OK, perse_use_place(p, anna));
    CHECK(accuracy_of(p) == hers);
    EXPECT(PERSE_OK, perse_reset_pack(p));
    CHECK(perse_get_info(p).generation == 0 && same_file("packs/anna/heads.pack", own, own_size));
    perse_close_place(anna);
    uint8_t *whole = read_file(scratch, "packs/anna/heads.pack", &size);
    write_file(scratch, "packs/anna/heads.pack", whole, size - 1);
    EXPECT(PERSE_TRUNCATED, perse_open_place(p, "anna", 0, blocks[0], place_size, &anna));
    EXPECT(PERSE_OK, perse_open_place(p, "anna", PERSE_FACTORY, blocks[0], place_size, &anna));
    perse_close_place(anna);
    perse_close_place(ben);
    perse_close_place(NULL);
    free(own), free(whole), free(blocks[0]), free(blocks[1]);
    perse_close(p);
}

static void test_place_refusals(void) {
    perse *p = open_with(1), *other;
    size_t size = perse_place_size(p);
    void *block = malloc(size), *memory_of_other = malloc(memory_size);
    perse_place *place;
    char longest[PERSE_LONGEST_NAME + 2] = {0};
    memset(longest, 'n', PERSE_LONGEST_NAME + 1);
    const char *const names[] = {"", ".", "..", "../x", "a/b", "/etc", ".hidden", "a b", "caf\xc3\xa9", longest};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        EXPECT(PERSE_BAD_NAME, perse_open_place(p, names[i], PERSE_CREATE, block, size, &place));
    longest[PERSE_LONGEST_NAME] = 0;
    EXPECT(PERSE_OK, perse_open_place(p, longest, PERSE_CREATE, block, size, &place));
    perse_close_place(place);
    EXPECT(PERSE_BAD_ARGUMENT, perse_open_place(p, NULL, 0, block, size, &place));
    EXPECT(PERSE_BAD_ARGUMENT, perse_open_place(p, "a", 4, block, size, &place));
    EXPECT(PERSE_OUT_OF_MEMORY, perse_open_place(p, "a", 0, block, size / 2, &place));
    EXPECT(PERSE_BAD_ARGUMENT, perse_use_place(NULL, NULL));
    CHECK(perse_place_size(NULL) == 0 && place == NULL);
    EXPECT(PERSE_OK, perse_open(&other, scratch, 1, memory_of_other, memory_size));
    EXPECT(PERSE_OK, perse_open_place(p, "a", PERSE_CREATE, block, size, &place));
    EXPECT(PERSE_BAD_ARGUMENT, perse_use_place(other, place));
    perse_close_place(place);
    perse_close(other);
    write_file(scratch, "packs/file", "x", 1);
    EXPECT(PERSE_NO_FILE, perse_open_place(p, "file", 0, block, size, &place));
    free(block), free(memory_of_other);
    perse_close(p);
}

/* ---- estimates ---- */

static void test_estimate(void) {
    static const uint32_t samples[] = {1, 8, 9, 16, 17, 24, 25, 100}, steps[] = {4, 4, 4, 4, 6, 6, 4, 13}; /* of 8 samples each */
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) CHECK((samples[i] + 7) / 8 * perse_passes(samples[i], 8) == steps[i]);
    perse *p = open_with(2);
    perse_fit_options o = perse_fit_defaults();
    perse_estimate e, twice, most;
    size_t size = perse_estimate_size(p);
    void *block = malloc(size);
    memset(block, 0xFF, size);
    EXPECT(PERSE_OK, perse_estimate_fit(p, 100, 200, false, &o, block, size, &e));
    CHECK(e.images == 100 && e.samples == 200 && e.epochs_at_most == o.epochs && e.seconds > 0 && e.seconds < e.seconds_at_most);
    CHECK(e.core_seconds == 2 * e.seconds && e.core_seconds_at_most == 2 * e.seconds_at_most);
    CHECK(e.memory == perse_memory_size(2) + p->plan->backbone_size + perse_fit_size(p, 200) + 200 * FEATURES * 2 + 100 * PIXELS);
    EXPECT(PERSE_OK, perse_estimate_fit(p, 100000, 200000, false, &o, block, size, &twice));
    CHECK(twice.seconds > 50 * e.seconds && twice.memory > 500 * (e.memory - perse_memory_size(2) - p->plan->backbone_size));
    EXPECT(PERSE_OK, perse_estimate_fit(p, 0, 20000, false, &o, block, size, &most)); /* images are compared, heads may learn twice */
    CHECK(most.seconds_at_most > 2 * most.seconds && most.seconds_at_most < 2.5 * most.seconds); /* those that are kept again */
    EXPECT(PERSE_OK, perse_estimate_fit(p, 0, 200, true, &o, block, size, &most));
    CHECK(most.seconds_at_most == most.seconds);
    o.neighbours = 0;
    EXPECT(PERSE_OK, perse_estimate_fit(p, 0, 200, false, &o, block, size, &most));
    CHECK(most.seconds_at_most > most.seconds && most.seconds_at_most < 1.5 * most.seconds);
    EXPECT(PERSE_OK, perse_save_pack(p)); /* the heads are as they were */
    uint8_t *factory = read_file(source, "heads.pack", &size);
    CHECK(same_file("heads.pack", factory, size));
    size = perse_estimate_size(p);
    static const int kinds[] = {FAIL_STAGE, FAIL_HEAD, FAIL_TRAIN};
    for (int i = 0; i < 3; i++) {
        mock_fail = kinds[i];
        EXPECT(PERSE_KERNEL_FAILED, perse_estimate_fit(p, 1, 20, true, &o, block, size, &e));
    }
    mock_fail = FAIL_NONE;
    EXPECT(PERSE_OUT_OF_MEMORY, perse_estimate_fit(p, 1, 20, true, &o, block, size / 2, &e));
    EXPECT(PERSE_BAD_ARGUMENT, perse_estimate_fit(p, 1, 20, true, NULL, block, size, &e));
    CHECK(perse_estimate_size(NULL) == 0);
    free(block), free(factory);
    perse_close(p);
}

/* ---- drift watch ---- */

/* An image whose exits say what the test wants: head e answers class `said[e]`, surely. */
static void set_answers(perse *p, const int *said) {
    for (int e = 0; e < EXITS; e++) {
        const perse_head *h = &p->live.exit[e].head;
        memset(h->weight, 0, p->plan->exit[e].features * K * sizeof(float));
        for (int k = 0; k < K; k++) h->bias[k] = k == said[e] ? 20 : 0;
    }
}

static perse_watch_report look(const perse_watch *w, int exit) {
    perse_watch_report r;
    EXPECT(PERSE_OK, perse_watch_look(w, exit, &r));
    return r;
}

/* `count` images, of which the share `wrong` makes exit 0 disagree with the others. */
static void stream(perse *p, perse_watch *w, int count, double wrong) {
    uint8_t image[PIXELS] = {0};
    double due = 0;
    for (int i = 0; i < count; i++) {
        due += wrong;
        bool drifted = due >= 1;
        if (drifted) due -= 1;
        set_answers(p, (int[]){drifted ? 1 : 2, 2, 2});
        perse_result r;
        EXPECT(PERSE_OK, perse_watch_run_u8(w, image, &r, NULL));
    }
}

static void test_watch(void) {
    perse *p = open_with(1);
    size_t size = perse_watch_size(p);
    void *block = malloc(size);
    perse_watch *w;
    perse_watch_options o = perse_watch_defaults();
    uint8_t image[PIXELS] = {0};
    float pixels_f32[PIXELS] = {0}, logits[K];
    perse_result r;
    o.every = 5;
    EXPECT(PERSE_OK, perse_watch_begin(p, &o, block, size, &w));
    set_answers(p, (int[]){1, 2, 2});
    for (int i = 1; i <= 20; i++) { /* every fifth runs to the end; the answer is the same */
        mock_stages = 0;
        if (i % 2) EXPECT(PERSE_OK, perse_watch_run_u8(w, image, &r, logits));
        else EXPECT(PERSE_OK, perse_watch_run_f32(w, pixels_f32, &r, logits));
        CHECK(mock_stages == (i % 5 == 0 ? EXITS : 1) && r.stages == mock_stages && r.exit == 0 && r.label == 1 && logits[1] == 20);
    }
    perse_watch_report x = look(w, 0);
    CHECK(x.images == 20 && x.images_checked == 4 && x.checked == 4 && x.disagreed == 4 && x.enabled && x.tightened == 0);
    CHECK(look(w, 1).checked == 0); /* exit 0 answered before it */

    o.every = 1; /* in step: 5 % disagreement is allowed, so nothing moves */
    EXPECT(PERSE_OK, perse_watch_begin(p, &o, block, size, &w));
    stream(p, w, 1000, 0.05);
    x = look(w, 0);
    CHECK(x.checked == 1000 && x.disagreed == 50 && x.tightened == 0 && x.threshold == 0.9f && x.recent == 400 && x.recent_disagreed == 20);
    CHECK(x.low > 0.02 && x.low < 0.05 && x.high > 0.05 && x.high < 0.1);
    stream(p, w, 200, 0.4); /* drift: stricter, stricter, off */
    x = look(w, 0);
    CHECK(x.tightened == 4 && x.switched_off && !x.enabled);
    EXPECT(PERSE_OK, perse_run_u8(p, image, PERSE_CASCADE, &r, NULL));
    CHECK(r.exit == 1);
    stream(p, w, 1000, 0); /* the drift is over: it comes back step by step */
    x = look(w, 0);
    CHECK(x.loosened == 4 && !x.switched_off && x.enabled && x.threshold == 0.9f);
    stream(p, w, 60, 0.4);
    x = look(w, 0);
    CHECK(x.enabled && x.tightened > 4 && x.threshold > 0.94f && x.threshold < 1);
    perse_watch_end(w);
    perse_watch_end(NULL);
    CHECK(p->live.exit[0].enabled && p->live.exit[0].threshold == 0.9f);

    EXPECT(PERSE_OK, perse_set_exit(p, 0, false, 1, 0.9f)); /* what the owner switched off stays off */
    EXPECT(PERSE_OK, perse_watch_begin(p, &o, block, size, &w));
    stream(p, w, 100, 0);
    CHECK(look(w, 0).checked == 0 && !look(w, 0).enabled && !look(w, 0).switched_off && look(w, 1).checked == 100);
    perse_watch_end(w);
    CHECK(!p->live.exit[0].enabled);
    free(block);
    perse_close(p);
}

static void test_watch_refusals(void) {
    perse *p = open_with(1);
    size_t size = perse_watch_size(p);
    void *block = malloc(size);
    perse_watch *w;
    perse_watch_options o = perse_watch_defaults();
    perse_watch_report x;
    uint8_t image[PIXELS] = {0};
    perse_result r;
    const perse_watch_options bad[] = {{0, 0.1f, 2}, {1, 0, 2}, {1, 1, 2}, {1, NAN, 2}, {1, 0.1f, -1}, {1, 0.1f, INFINITY}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) EXPECT(PERSE_BAD_ARGUMENT, perse_watch_begin(p, &bad[i], block, size, &w));
    EXPECT(PERSE_BAD_ARGUMENT, perse_watch_begin(p, NULL, block, size, &w));
    EXPECT(PERSE_OUT_OF_MEMORY, perse_watch_begin(p, &o, block, size / 2, &w));
    o.every = 2;
    EXPECT(PERSE_OK, perse_watch_begin(p, &o, block, size, &w));
    for (int i = 0; i < 2; i++) { /* one that would run early, one that would be checked: neither counts */
        mock_fail = FAIL_STAGE;
        EXPECT(PERSE_KERNEL_FAILED, perse_watch_run_u8(w, image, &r, NULL));
        CHECK(look(w, 0).images == (uint32_t)i);
        mock_fail = FAIL_NONE;
        EXPECT(PERSE_OK, perse_watch_run_u8(w, image, &r, NULL));
    }
    EXPECT(PERSE_BAD_ARGUMENT, perse_watch_run_u8(w, NULL, &r, NULL));
    EXPECT(PERSE_BAD_ARGUMENT, perse_watch_run_f32(w, NULL, &r, NULL));
    EXPECT(PERSE_BAD_ARGUMENT, perse_watch_run_u8(w, image, NULL, NULL));
    EXPECT(PERSE_BAD_ARGUMENT, perse_watch_look(w, EXITS - 1, &x)); /* the final exit has nobody to agree with */
    EXPECT(PERSE_BAD_ARGUMENT, perse_watch_look(w, -1, &x));
    CHECK(perse_watch_size(NULL) == 0);
    free(block);
    perse_close(p);
}

/* ---- the worst case ---- */

/* No image ever takes more than every stage once and every enabled head once, however the exits are set. */
static void test_worst_case(void) {
    perse *p = open_with(1);
    load_user(p, "generic.raw");
    perse_result r;
    for (int set = 0; set < 4; set++) {
        bool on[EXITS] = {set & 1, set & 2, true};
        for (int hopeless = 0; hopeless < 2; hopeless++) { /* thresholds that nobody reaches: the worst of all */
            for (int e = 0; e < EXITS; e++) EXPECT(PERSE_OK, perse_set_exit(p, e, on[e], 1, hopeless ? 2.0f : 0.9f));
            for (int i = 0; i < 50; i++) {
                mock_stages = mock_heads = 0;
                EXPECT(PERSE_OK, perse_run_u8(p, pixels[i], PERSE_CASCADE, &r, NULL));
                int heads = 0;
                for (int e = 0; e <= r.exit; e++) heads += on[e];
                CHECK(mock_stages == r.exit + 1 && mock_heads == heads && on[r.exit]);
                CHECK(!hopeless || (mock_stages == EXITS && mock_heads == 1 + on[0] + on[1]));
            }
        }
    }
    perse_close(p);
}

static void test_drop_costly(void) {
    perse *p = open_with(1);
    const double stage[] = {10, 10, 10};
    uint32_t off;
    static const struct { double share[EXITS], head[EXITS]; bool on[2]; } cases[] = {
        {{0.5, 0.3, 0.2}, {1, 1, 1}, {true, true}},     /* both save much */
        {{0.5, 0.0, 0.5}, {1, 1, 1}, {true, false}},    /* nobody leaves at exit 1 */
        {{0.01, 0.5, 0.49}, {1, 1, 1}, {false, true}},  /* saves 0.01 * 16, asks 1 of everybody */
        {{0.3, 0.2, 0.5}, {90, 90, 1}, {false, false}}, /* heads dearer than the network: never slower than that */
        {{0, 0, 1}, {0.1, 0.1, 1}, {false, false}},     /* drifted away: full network */
        {{1, 0, 0}, {1, 1, 1}, {true, false}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int e = 0; e < 2; e++) EXPECT(PERSE_OK, perse_set_exit(p, e, true, 1, 0.9f));
        EXPECT(PERSE_OK, perse_drop_costly(p, cases[i].share, stage, cases[i].head, &off));
        CHECK(p->live.exit[0].enabled == cases[i].on[0] && p->live.exit[1].enabled == cases[i].on[1] && p->live.exit[2].enabled);
        CHECK(off == 2u - cases[i].on[0] - cases[i].on[1]);
        EXPECT(PERSE_OK, perse_drop_costly(p, cases[i].share, stage, cases[i].head, NULL)); /* what is off stays off */
        CHECK(p->live.exit[0].enabled == cases[i].on[0] && p->live.exit[1].enabled == cases[i].on[1]);
    }
    const double bad[] = {NAN, 1, 1}, negative[] = {1, -1, 1};
    EXPECT(PERSE_BAD_ARGUMENT, perse_drop_costly(p, bad, stage, stage, NULL));
    EXPECT(PERSE_BAD_ARGUMENT, perse_drop_costly(p, stage, negative, stage, NULL));
    EXPECT(PERSE_BAD_ARGUMENT, perse_drop_costly(p, stage, stage, NULL, NULL));
    perse_close(p);
}
