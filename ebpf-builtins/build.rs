//! Packs the objects for the program: they are mostly BTF and line information, and an eighth of their size packed.

use std::path::Path;

fn main() {
    let folder = Path::new("objects");
    let out = std::env::var_os("OUT_DIR").expect("cargo sets it");
    println!("cargo::rerun-if-changed=objects");
    for entry in folder.read_dir().expect("the objects are in the repository") {
        let path = entry.expect("a folder can be read").path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()?.strip_suffix(".bpf.o")) else {
            continue;
        };
        let bytes = std::fs::read(&path).expect("an object can be read");
        // The length in front, so that one allocation is enough.
        let mut packed = u32::try_from(bytes.len()).expect("an object is small").to_le_bytes().to_vec();
        packed.extend(miniz_oxide::deflate::compress_to_vec(&bytes, 10));
        std::fs::write(Path::new(&out).join(name), packed).expect("cargo's folder can be written");
    }
}
