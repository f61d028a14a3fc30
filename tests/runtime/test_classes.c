/* test_classes.c - part of test_runtime.c: classes that the network never had. */

/* Every fourth image of class 3 becomes its negative, and a class of its own. */
static void invert_some(perse *p, int32_t label) {
    for (int i = 0, seen = 0; i < USERS; i++) {
        if (labels[i] != 3 || seen++ % 4 != 0) continue;
        for (int j = 0; j < PIXELS; j++) pixels[i][j] = (uint8_t)(255 - pixels[i][j]);
        EXPECT(PERSE_OK, perse_features_u8(p, pixels[i], features + i * FEATURES));
        labels[i] = label;
    }
}

static int count_label(int32_t label) {
    int count = 0;
    for (int i = 0; i < USERS; i++) count += labels[i] == label;
    return count;
}

/* Accuracy on images with that label. */
static double accuracy_on(perse *p, int32_t label) {
    perse_result r;
    int right = 0;
    for (int i = 0; i < USERS; i++) {
        if (labels[i] != label) continue;
        EXPECT(PERSE_OK, perse_run_u8(p, pixels[i], PERSE_CASCADE, &r, NULL));
        right += r.label == label;
    }
    return (double)right / count_label(label);
}

/* As they were built: of every head. */
static bool untouched(const perse *p, int k) {
    bool same = true;
    for (uint32_t e = 0; e < EXITS; e++) {
        const perse_head *h = &p->live.exit[e].head;
        for (uint32_t i = 0; i < p->plan->exit[e].features; i++) same = same && h->weight[i * K + (uint32_t)k] == 0;
        same = same && h->bias[k] == PERSE_SPARE_LOGIT;
    }
    return same;
}

static void teach(perse *p, const char *name) {
    perse_fit_options o = perse_fit_defaults();
    perse_report r;
    EXPECT(PERSE_OK, perse_name_class(p, name));
    EXPECT(PERSE_OK, fit_with(p, USERS, labels, &o, &r));
    CHECK(r.verdict == PERSE_BETTER);
}

static void test_names_of_classes(void) {
    perse *p = open_with(1);
    perse_info info = perse_get_info(p);
    CHECK(info.spare == SPARE && info.factory_classes == KNOWN && strcmp(info.class_names[1], "bee") == 0 && *info.class_names[KNOWN] == 0);
    char longest[PERSE_LONGEST_CLASS + 2];
    memset(longest, 'x', sizeof longest);
    longest[PERSE_LONGEST_CLASS + 1] = 0;
    static const char *const bad[] = {"", "a\tb", "\x7F", "\x80", "\xC3", "\xC2\x85", "\xC3x", "\xC3\xA9\xA9", "\xF5\x80\x80\x80", "\xE2\x82", "m\xFFug",
                                      "\xC0\xAF", "\xE0\x9F\xBF", "\xED\xA0\xBD\xED\xB8\x80", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) EXPECT(PERSE_BAD_CLASS_NAME, perse_name_class(p, bad[i]));
    EXPECT(PERSE_BAD_CLASS_NAME, perse_name_class(p, longest));
    char names[2][PERSE_CLASS_ROOM] = {"mug", "cup"};
    CHECK(perse_names_sound(names[0], 2));
    names[0][10] = 'x'; /* behind the end */
    CHECK(!perse_names_sound(names[0], 2));
    memset(names[0], 0, sizeof names[0]); /* one without a name before one with it */
    CHECK(!perse_names_sound(names[0], 2) && perse_names_sound(names[0], 1));
    EXPECT(PERSE_BAD_ARGUMENT, perse_name_class(NULL, "mug"));
    EXPECT(PERSE_CLASS_KNOWN, perse_name_class(p, "bee"));
    longest[PERSE_LONGEST_CLASS] = 0;
    EXPECT(PERSE_OK, perse_name_class(p, longest));
    EXPECT(PERSE_CLASS_KNOWN, perse_name_class(p, longest));
    CHECK(strcmp(perse_detail(), longest) == 0);
    EXPECT(PERSE_OK, perse_name_class(p, "ma tasse \xC3\xA9t\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80"));
    EXPECT(PERSE_NO_SPARE_CLASS, perse_name_class(p, "a third"));
    info = perse_get_info(p);
    CHECK(info.classes == K && info.spare == 0 && strcmp(info.class_names[KNOWN], longest) == 0);
    EXPECT(PERSE_OK, perse_name_class(p, NULL)); /* nobody has taught them */
    CHECK(perse_get_info(p).spare == SPARE);
    perse_close(p);
}

static void test_a_new_class(void) {
    perse *p = open_with(1);
    perse_report r;
    perse_fit_options o = perse_fit_defaults();
    float recognised[K];
    load_user(p, "generic.raw");
    invert_some(p, KNOWN);
    double before = accuracy_on(p, 1);
    EXPECT(PERSE_BAD_LABEL, fit_with(p, USERS, labels, &o, &r)); /* it has no name yet */
    EXPECT(PERSE_OK, perse_name_class(p, "mug"));
    perse_samples samples = {.count = USERS, .features = features, .labels = labels};
    size_t size = perse_fit_size(p, USERS);
    void *block = malloc(size);
    r = (perse_report){.exits = exit_reports, .prior = prior, .recognised = recognised};
    EXPECT(PERSE_OK, perse_fit(p, &samples, &o, block, size, &r));
    free(block);
    CHECK(r.verdict == PERSE_BETTER && r.teacher == PERSE_TEACHER_PERSONAL && r.after.accuracy > r.before.accuracy + 0.04);
    CHECK(recognised[KNOWN] > 0.6f && recognised[0] > 0.7f && isnan(recognised[4]) && isnan(recognised[KNOWN + 1]));
    for (int e = 0; e < EXITS; e++) CHECK(exit_reports[e].new_head && exit_reports[e].temperature < 5);
    CHECK(fabsf(prior[KNOWN] - (float)count_label(KNOWN) / USERS) < 1e-6f && prior[KNOWN + 1] == 0);
    CHECK(accuracy_on(p, KNOWN) > 0.75 && accuracy_on(p, 1) > before - 0.02);
    CHECK(!untouched(p, KNOWN) && untouched(p, KNOWN + 1));
    EXPECT(PERSE_OK, perse_name_class(p, NULL)); /* what has been learnt stays */
    EXPECT(PERSE_OK, perse_save_pack(p));
    perse_close(p);

    p = open_with(1);
    perse_info info = perse_get_info(p);
    CHECK(info.spare == SPARE - 1 && strcmp(info.class_names[KNOWN], "mug") == 0 && accuracy_on(p, KNOWN) > 0.75);
    EXPECT(PERSE_OK, perse_rollback_pack(p)); /* name and weights go together, and come back so */
    CHECK(perse_get_info(p).spare == SPARE && untouched(p, KNOWN) && *perse_get_info(p).class_names[KNOWN] == 0);
    EXPECT(PERSE_OK, perse_rollback_pack(p));
    CHECK(perse_get_info(p).spare == SPARE - 1 && accuracy_on(p, KNOWN) > 0.75);

    EXPECT(PERSE_OK, fit_with(p, USERS, labels, &o, &r)); /* by its number, from now on */
    CHECK(accuracy_on(p, KNOWN) > 0.75);
    EXPECT(PERSE_OK, fit_with(p, USERS, NULL, &o, &r)); /* and without labels, by what the final head knows */
    CHECK(r.teacher == PERSE_TEACHER_PERSONAL && prior[KNOWN + 1] == 0 && fabsf(prior[KNOWN] - 1.0f / (KNOWN + 1)) < 1e-6f);
    CHECK(accuracy_on(p, KNOWN) > 0.4 && untouched(p, KNOWN + 1));
    EXPECT(PERSE_OK, perse_reset_pack(p));
    CHECK(perse_get_info(p).spare == SPARE && untouched(p, KNOWN));
    perse_close(p);
}

/* Images without it: no cache, other classes only. */
static void test_a_new_class_is_not_forgotten(void) {
    perse *p = open_with(1);
    perse_fit_options o = perse_fit_defaults();
    perse_report r;
    int32_t few[USERS];
    uint32_t count = 0;
    load_user(p, "generic.raw");
    invert_some(p, KNOWN);
    teach(p, "mug");
    double before = accuracy_on(p, KNOWN);
    for (int i = 0; i < USERS; i++) {
        if (labels[i] == KNOWN || labels[i] == 3) continue;
        memmove(features + count * FEATURES, features + i * FEATURES, FEATURES * sizeof *features);
        few[count++] = labels[i];
    }
    o.max_drop = 0.2f; /* so that it goes live, for speed */
    o.seed = 7;
    EXPECT(PERSE_OK, fit_with(p, count, few, &o, &r));
    CHECK(r.verdict == PERSE_BETTER);
    CHECK(accuracy_on(p, KNOWN) > before - 0.15 && accuracy_on(p, 3) > 0.6);
    perse_close(p);
}

/* A fit that knows of no new class leaves spare outputs as they are, whoever teaches. */
static void test_spare_outputs_stay(void) {
    perse_fit_options o = perse_fit_defaults();
    perse_report r;
    int32_t few[USERS];
    for (int labelled = 0; labelled < 3; labelled++) {
        perse *p = open_with(1);
        load_user(p, labelled > 0 ? "user.raw" : "generic.raw");
        for (int i = 0; i < USERS; i++) few[i] = labelled == 2 || i < 40 ? labels[i] : -1;
        EXPECT(PERSE_OK, fit_with(p, USERS, labelled > 0 ? few : NULL, &o, &r));
        CHECK(labelled == 0 || r.verdict == PERSE_BETTER);
        for (int k = KNOWN; k < K; k++) CHECK(untouched(p, k) && prior[k] == 0);
        for (int e = 0; e < EXITS; e++) CHECK(isfinite(exit_reports[e].first_loss) && isfinite(exit_reports[e].last_loss) && exit_reports[e].first_loss < 10);
        perse_close(p);
    }
}

static void test_new_classes_refused(void) {
    perse *p = open_with(1);
    perse_fit_options o = perse_fit_defaults();
    perse_report r;
    load_user(p, "generic.raw");
    invert_some(p, KNOWN);
    EXPECT(PERSE_OK, perse_name_class(p, "mug"));
    for (int i = 0, kept = 0; i < USERS; i++)
        if (labels[i] == KNOWN && kept++ >= 4) labels[i] = -1;
    EXPECT(PERSE_TOO_FEW_OF_CLASS, fit_with(p, USERS, labels, &o, &r));
    CHECK(strcmp(perse_detail(), "mug") == 0);
    EXPECT(PERSE_TOO_FEW_OF_CLASS, fit_with(p, USERS, NULL, &o, &r));

    load_user(p, "user.raw"); /* a camera to learn, and a class like another: some images of class 3 */
    for (int i = 0, seen = 0; i < USERS; i++)
        if (labels[i] == 3 && seen++ % 8 == 0) labels[i] = KNOWN;
    EXPECT(PERSE_OK, fit_with(p, USERS, labels, &o, &r));
    CHECK(r.verdict == PERSE_NOT_RECOGNISED && untouched(p, KNOWN) && perse_get_info(p).generation == 0);

    load_user(p, "generic.raw"); /* most images of class 3: the new class takes the others as well */
    EXPECT(PERSE_OK, perse_name_class(p, NULL));
    EXPECT(PERSE_OK, fit_with(p, USERS, labels, &o, &r));
    EXPECT(PERSE_OK, perse_name_class(p, "mug"));
    for (int i = 0, seen = 0; i < USERS; i++)
        if (labels[i] == 3 && seen++ % 5 != 0) labels[i] = KNOWN;
    EXPECT(PERSE_OK, fit_with(p, USERS, labels, &o, &r));
    CHECK(r.verdict == PERSE_KNOWN_SUFFER && untouched(p, KNOWN) && perse_get_info(p).generation == 1);
    perse_close(p);
}

static void test_names_in_packs(void) {
    perse *p = open_with(1);
    perse_place *place;
    char block[1 << 15];
    load_user(p, "generic.raw");
    invert_some(p, KNOWN);
    CHECK(perse_place_size(p) <= sizeof block);
    EXPECT(PERSE_OK, perse_open_place(p, "kitchen", PERSE_CREATE | PERSE_FACTORY, block, sizeof block, &place));
    EXPECT(PERSE_OK, perse_use_place(p, place));
    teach(p, "mug");
    EXPECT(PERSE_OK, perse_save_pack(p));
    EXPECT(PERSE_OK, perse_use_place(p, NULL));
    CHECK(perse_get_info(p).spare == SPARE && untouched(p, KNOWN)); /* every pack has its own */
    teach(p, "cup");
    CHECK(strcmp(perse_get_info(p).class_names[KNOWN], "cup") == 0);
    EXPECT(PERSE_OK, perse_use_place(p, place));
    CHECK(strcmp(perse_get_info(p).class_names[KNOWN], "mug") == 0);
    perse_close_place(place);
    perse_close(p);

    static const struct { size_t at; char bytes[4]; } damage[] = {{88 + 63, "x"}, {88 + 127, "x"}, {88, "\x01"}, {88, "\xFFx"}};
    for (size_t i = 0; i < sizeof damage / sizeof *damage; i++) {
        patch("heads.pack", damage[i].at, damage[i].bytes, strlen(damage[i].bytes), true);
        EXPECT(PERSE_BAD_LAYOUT, try_open());
    }
    uint32_t other = SPARE + 1;
    patch("heads.pack", 44, &other, 4, true);
    EXPECT(PERSE_WRONG_PACK, try_open());
    other = 2;
    patch("heads.pack", 8, &other, 4, false); /* from before there were names */
    EXPECT(PERSE_BAD_VERSION, try_open());
}

/* Labels in a cache mean names, not numbers. */
static void test_names_in_the_cache(void) {
    perse *p = open_with(1);
    int of_class[K + 1];
    load_user(p, "generic.raw");
    invert_some(p, KNOWN);
    int mugs = count_label(KNOWN);
    perse_cache *c = open_cache_with(p, USERS);
    EXPECT(PERSE_BAD_LABEL, perse_cache_add(c, features, KNOWN)); /* nobody has named it */
    add(c, 0, USERS, false);
    EXPECT(PERSE_OK, perse_name_class(p, "mug"));
    add(c, 0, USERS, true); /* what they show is known later than they are */
    EXPECT(PERSE_OK, perse_cache_save(c));
    perse_cache_close(c);
    c = open_cache_with(p, USERS);
    count_classes(c, of_class);
    CHECK(of_class[KNOWN] == mugs && perse_get_cache_info(c).samples == USERS);
    perse_cache_close(c);
    EXPECT(PERSE_OK, perse_name_class(p, NULL));
    EXPECT(PERSE_OK, perse_name_class(p, "cup"));
    EXPECT(PERSE_OK, perse_name_class(p, "mug")); /* another number now */
    c = open_cache_with(p, USERS);
    count_classes(c, of_class);
    CHECK(of_class[KNOWN] == 0 && of_class[KNOWN + 1] == mugs);
    EXPECT(PERSE_OK, perse_cache_save(c));
    perse_cache_close(c);
    c = open_cache_with(p, 40); /* fewer: the reservoir knows how many came */
    count_classes(c, of_class);
    CHECK(of_class[KNOWN] == 0 && of_class[KNOWN + 1] >= 7 && perse_get_cache_info(c).samples == 40);
    perse_cache_close(c);
    EXPECT(PERSE_OK, perse_name_class(p, NULL));
    c = open_cache_with(p, USERS); /* a class without a name here */
    count_classes(c, of_class);
    CHECK(of_class[KNOWN] == 0 && of_class[KNOWN + 1] == 0 && of_class[3] > 0 && (int)perse_get_cache_info(c).samples == USERS - mugs);
    perse_cache_close(c);
    perse_close(p);
}
