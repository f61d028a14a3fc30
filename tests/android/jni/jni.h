/* jni.h - as much of JNI as the example uses, to compile it where no JDK is. Not its table of functions: what is
 * compiled with this is not for running. `make android` compiles with a JDK's own. */
#ifndef JNI_H
#define JNI_H
#include <stdint.h>

#define JNIEXPORT __attribute__((visibility("default")))
#define JNICALL

typedef int32_t jint, jsize;
typedef int64_t jlong;
typedef int8_t jbyte;
typedef uint8_t jboolean;
typedef double jdouble;
typedef struct thing *jobject;
typedef jobject jclass, jstring, jthrowable, jobjectArray, jbyteArray, jintArray, jdoubleArray;
typedef struct method *jmethodID;
typedef const struct functions *JNIEnv;

struct functions {
    jclass (*FindClass)(JNIEnv *, const char *);
    jclass (*GetObjectClass)(JNIEnv *, jobject);
    jmethodID (*GetMethodID)(JNIEnv *, jclass, const char *, const char *);
    jobject (*NewObject)(JNIEnv *, jclass, jmethodID, ...);
    jboolean (*CallBooleanMethod)(JNIEnv *, jobject, jmethodID, ...);
    jstring (*NewStringUTF)(JNIEnv *, const char *);
    const char *(*GetStringUTFChars)(JNIEnv *, jstring, jboolean *);
    void (*ReleaseStringUTFChars)(JNIEnv *, jstring, const char *);
    jsize (*GetArrayLength)(JNIEnv *, jobject);
    jbyteArray (*NewByteArray)(JNIEnv *, jsize);
    jintArray (*NewIntArray)(JNIEnv *, jsize);
    jdoubleArray (*NewDoubleArray)(JNIEnv *, jsize);
    jobjectArray (*NewObjectArray)(JNIEnv *, jsize, jclass, jobject);
    void (*GetByteArrayRegion)(JNIEnv *, jbyteArray, jsize, jsize, jbyte *);
    void (*SetByteArrayRegion)(JNIEnv *, jbyteArray, jsize, jsize, const jbyte *);
    void (*SetIntArrayRegion)(JNIEnv *, jintArray, jsize, jsize, const jint *);
    void (*SetDoubleArrayRegion)(JNIEnv *, jdoubleArray, jsize, jsize, const jdouble *);
    void (*SetObjectArrayElement)(JNIEnv *, jobjectArray, jsize, jobject);
    void (*DeleteLocalRef)(JNIEnv *, jobject);
    jint (*Throw)(JNIEnv *, jthrowable);
    jboolean (*ExceptionCheck)(JNIEnv *);
};
#endif
