//! The exit codes of each command, for the reference. A test runs each command into each of its codes.

/// The codes of all commands. A command that reads no configuration lacks 64.
pub const COMMON_EXIT_CODES: &[(i32, &str)] = &[
    (0, "The command succeeded."),
    (
        1,
        "The command failed, or found problems and printed them. This includes output that can't be written. A pipe whose reader is \
         gone is no failure, except for `init` and `callers new`, whose API key is lost then.",
    ),
    (2, "The arguments are wrong."),
    (64, "The configuration is invalid. The command has done nothing, unless its own list says otherwise."),
];

/// The codes with a meaning of their own, by the words of the command.
pub const EXIT_CODES: &[(&str, &[(i32, &str)])] = &[
    (
        "serve",
        &[
            (0, "A signal stopped the service."),
            (1, "An address is in use, or the service failed in another way."),
            (64, "The configuration or a file that it names is invalid. The service has opened no port."),
        ],
    ),
    ("dev", &[(0, "A signal stopped the service."), (1, "The address is in use.")]),
    (
        "init",
        &[
            (0, "The files were written. Values may be left to fill in."),
            (1, "A file exists already, or can't be read or written."),
            (64, "The written files failed the check, and were removed."),
        ],
    ),
    (
        "check",
        &[
            (0, "The configuration is valid. Warnings don't change the code."),
            (1, "With `--running`: the service refuses these files or reads others, or no service answers."),
            (64, "The configuration or a file that it names is invalid."),
        ],
    ),
    (
        "keys new",
        &[
            (0, "The key was written."),
            (1, "A file of this key id exists, or the folder has a key and no `keyset.toml`, or is locked."),
            (64, "The configuration is invalid."),
        ],
    ),
    ("keys list", &[(0, "The list was printed."), (64, "The configuration or a key is invalid.")]),
    (
        "keys rotate",
        &[
            (0, "The key was written. If a service runs with these files, the key is in force."),
            (1, "The rotation failed, or another rotation is under way."),
            (2, "Verifiers don't expect the dates, or the arguments are wrong."),
            (64, "The configuration or `keyset.toml` is invalid."),
        ],
    ),
    (
        "keys retire",
        &[
            (0, "The key is gone, also from the service on this host if one runs."),
            (
                1,
                "The key isn't retired, a copy of it is left, or the service refuses its replacement. The message says which.",
            ),
            (64, "The key is retired, but errors in `keyset.toml` hide which key signs next."),
        ],
    ),
    (
        "keys seal",
        &[
            (
                0,
                "The key is sealed, and `KID.key` is removed. If a service runs with these files, it uses the sealed key.",
            ),
            (
                1,
                "The key isn't sealed, or the service doesn't use the sealed key, and `KID.key` is still there.",
            ),
            (64, "The configuration is invalid."),
        ],
    ),
    (
        "keys reseal",
        &[
            (0, "Each sealed key of the keyset is sealed again."),
            (
                1,
                "A key can't be opened or sealed, or there is none. Keys that were sealed again before stay so.",
            ),
            (64, "The configuration is invalid."),
        ],
    ),
    (
        "jwk",
        &[
            (0, "The JWK was printed."),
            (1, "There is no such key."),
            (64, "The configuration or a key is invalid."),
        ],
    ),
    (
        "jwks",
        &[
            (0, "The JWK Set was printed."),
            (1, "There is no such keyset."),
            (64, "The configuration or a key is invalid."),
        ],
    ),
    (
        "mint",
        &[
            (0, "The token was printed."),
            (1, "No key of the profile signs now."),
            (2, "The profile doesn't exist or forbids the token, or the arguments are wrong."),
            (64, "The configuration or a key is invalid."),
        ],
    ),
    (
        "verify",
        &[
            (0, "The token's relying party would accept it."),
            (1, "The token is rejected, or there is no key or secret to check its signature."),
            (64, "The configuration that `--config` names doesn't load."),
        ],
    ),
    (
        "doctor",
        &[
            (
                0,
                "No check failed. Warnings don't change the code, and the verdict names the checks that couldn't run.",
            ),
            (1, "A check failed. An invalid configuration is a failed check."),
        ],
    ),
    (
        "callers new",
        &[
            (0, "The API key and the lines for the configuration were printed."),
            (2, "The configuration has no such profile, or the arguments are wrong."),
        ],
    ),
    (
        "salesforce-metadata",
        &[
            (0, "The metadata was written, or the retrieved project doesn't differ."),
            (1, "The retrieved project differs, or a file can't be read or written."),
            (64, "The configuration or a key is invalid."),
        ],
    ),
    (
        "sandbox",
        &[
            (0, "A signal stopped the sandbox."),
            (1, "The address is in use, or a key fails to upload."),
            (64, "The configuration is invalid."),
        ],
    ),
    (
        "healthcheck",
        &[
            (0, "The service answers `/livez`."),
            (1, "The service doesn't answer."),
            (64, "The configuration can't be read, or its listen address is invalid."),
        ],
    ),
    ("openapi", &[(0, "The document was printed.")]),
    ("schema", &[(0, "The schema was printed.")]),
    ("completions", &[(0, "The completions were printed.")]),
];
