plugins {
    id("com.android.application")
}

val artifact: File = rootDir.resolve(property("perse.artifact") as String).canonicalFile
val assets = layout.buildDirectory.dir("perse-assets")

android {
    namespace = "dev.perse.demo"
    compileSdk = 35
    defaultConfig {
        applicationId = "dev.perse.demo"
        minSdk = 28 // ImageDecoder; libperse.a itself is compiled for 24
        targetSdk = 35
        versionCode = 1
        versionName = "1"
        ndk { abiFilters += "arm64-v8a" }
        externalNativeBuild { cmake { arguments += "-DPERSE_ARTIFACT=$artifact" } }
    }
    externalNativeBuild { cmake { path = file("src/main/cpp/CMakeLists.txt") } }
    sourceSets["main"].assets.srcDir(assets)
    androidResources { noCompress += "bin" }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_11
        targetCompatibility = JavaVersion.VERSION_11
    }
}

// backbone.bin is all that the app ships; heads.pack comes to be beside it on the phone.
val copyBackbone = tasks.register<Copy>("copyBackbone") {
    from(artifact) { include("backbone.bin") }
    into(assets)
}
tasks.named("preBuild") { dependsOn(copyBackbone) }
