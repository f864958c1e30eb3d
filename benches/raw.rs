//! Measures the upper bound of signatures: aws-lc-rs alone, with a parsed key.
//!
//!     raw KEY.pem SECONDS THREADS
//!
//! Prints the number of signatures and the elapsed seconds. The harness reads the CPU time of the process.

#![expect(clippy::print_stdout, reason = "the harness reads it")]

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};

/// Has the length of the signing input of the harness's identity tokens.
const MESSAGE: [u8; 260] = [b'x'; 260];

fn sign_until(pair: &RsaKeyPair, deadline: Instant) -> u64 {
    let mut signature = vec![0; pair.public_modulus_len()];
    let mut made = 0;
    while Instant::now() < deadline {
        let signed = pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), &MESSAGE, &mut signature);
        signed.expect("a parsed key signs");
        made += 1;
    }
    made
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, seconds, threads] = &arguments[..] else {
        println!("usage: raw KEY.pem SECONDS THREADS");
        std::process::exit(2);
    };
    let text = fs::read(file).expect("the key's file can be read");
    let document = pem::parse(text).expect("the file holds PEM");
    let pair = RsaKeyPair::from_pkcs8(document.contents()).expect("the PEM holds a PKCS#8 RSA key");
    let seconds: f64 = seconds.parse().expect("SECONDS is a number");
    let threads: usize = threads.parse().expect("THREADS is a number");

    let begin = Instant::now();
    let deadline = begin + Duration::from_secs_f64(seconds);
    let made: u64 = thread::scope(|scope| {
        let mut workers = Vec::new();
        workers.resize_with(threads, || scope.spawn(|| sign_until(&pair, deadline)));
        workers.into_iter().map(|worker| worker.join().expect("no panic")).sum()
    });
    println!("{{\"signatures\": {made}, \"seconds\": {:.6}}}", begin.elapsed().as_secs_f64());
}
