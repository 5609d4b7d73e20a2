/** Something given cannot be used; the message says what was wanted. */
export class InputError extends Error {
  name = "InputError";
}
/** A file of the folder is absent, damaged, or of another version. */
export class BundleError extends Error {
  name = "BundleError";
}
/** This browser, or the way the page was opened, cannot run it. */
export class UnavailableError extends Error {
  name = "UnavailableError";
}
