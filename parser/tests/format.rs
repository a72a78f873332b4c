//! `weir fmt`: nothing is lost, and what is formatted stays as it is.

use std::path::{Path, PathBuf};
use weir_parser::{FormatError, format, parse};

fn ok(text: &str) -> String {
    format(text).unwrap_or_else(|e| panic!("{e:?}\n{text}"))
}

/// All scripts of the project: the saved ones, and the cases of every test.
fn scripts() -> Vec<PathBuf> {
    fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).expect("folder") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|e| e == "weir" || e == "bt") {
                out.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut out = Vec::new();
    for dir in ["examples", "tests", "parser/tests", "compiler/tests", "runtime/tests"] {
        walk(&root.join(dir), &mut out);
    }
    out.sort();
    out
}

#[test]
fn every_script_stays_the_same_script() {
    let mut formatted = 0;
    for path in scripts() {
        let text = std::fs::read_to_string(&path).expect("script");
        // Cases have what is expected behind the script.
        let text = match text.split_once("\n--------\n") {
            Some((script, _)) => format!("{script}\n"),
            None => text,
        };
        match format(&text) {
            Ok(once) => {
                assert_eq!(ok(&once), once, "{}: not stable", path.display());
                formatted += 1;
            }
            Err(FormatError::Syntax(_)) => assert!(parse(weir_parser::SourceId(0), &text).has_errors()),
            Err(FormatError::Changed(what)) => panic!("{}: {what} would be lost", path.display()),
        }
    }
    assert!(formatted >= 60, "only {formatted} scripts were formatted");
}

#[test]
fn the_saved_scripts_are_formatted() {
    let mut count = 0;
    for path in scripts().iter().filter(|p| p.components().any(|c| c.as_os_str() == "examples")) {
        let text = std::fs::read_to_string(path).expect("script");
        assert_eq!(ok(&text), text, "{}", path.display());
        count += 1;
    }
    assert!(count >= 12, "only {count} examples");
}

#[test]
fn comments_stay_where_they_are() {
    let text = "\
#!/usr/bin/env weir
// head
/* of
   two lines */

begin   {   // behind the brace
  // own line
    $x=0x1f+1_000;   // trailing
  /* inner */ print( $x ) ;


  // after a blank line
  if($x>1){ exit( ); } // behind a block
  printf(\"%d %d\\n\", /* the first */ $x,
      // the second
      $x);
  // last
}

interval:s:1{@=count( );}//end
// the very end
";
    let expected = "\
#!/usr/bin/env weir
// head
/* of
   two lines */

begin {
    // behind the brace
    // own line
    $x = 0x1f + 1_000; // trailing
    /* inner */
    print($x);

    // after a blank line
    if ($x > 1) { exit(); } // behind a block
    printf(\"%d %d\\n\", /* the first */ $x,
        // the second
        $x);
    // last
}

interval:s:1 { @ = count(); } //end
// the very end
";
    assert_eq!(ok(text), expected);
    assert_eq!(ok(expected), expected);
}

#[test]
fn headers_keep_their_lines_and_comments() {
    let text =
        "tc:veth0:ingress,   // what comes\n  tc:veth0:egress /tcp.dport==80/ {drop();}\nkprobe:a,kprobe:b{}\nkprobe:a,\n kprobe:b {}\n";
    // A header with comments in it stays as it is, but for the block.
    let expected =
        "tc:veth0:ingress,   // what comes\n  tc:veth0:egress /tcp.dport==80/ { drop(); }\nkprobe:a, kprobe:b {}\nkprobe:a,\nkprobe:b {}\n";
    assert_eq!(ok(text), expected);
    assert_eq!(ok(expected), expected);
}

#[test]
fn directives_stay_with_what_they_enclose() {
    let text =
        "#ifndef BPFTRACE_HAVE_BTF\n#include   <linux/x.h>\n#else\n  // kept\n#endif\n\n#define  N   5 // five\nbegin { print( N ); }\n";
    let expected =
        "#ifndef BPFTRACE_HAVE_BTF\n#include   <linux/x.h>\n#else\n  // kept\n#endif\n\n#define  N   5 // five\nbegin { print(N); }\n";
    assert_eq!(ok(text), expected);
    assert_eq!(ok(expected), expected);
    let inner = "begin {\n#ifdef X\n  print( 1 );\n#endif\n  print( 2 );\n}\n";
    assert_eq!(ok(inner), inner);
}

#[test]
fn parentheses_and_literals_are_the_authors() {
    for same in [
        "begin { $a = (1 + 2) * 3; $b = (1 * 2) + 3; $c = ($a && $b) || $a; }\n",
        "begin { $a = 1h; $b = 60m; $c = 0x10; $d = \"a\\x41\"; $e = 10.0.0.0/8; }\n",
        "use blocklist(iface=$1, prefixes=file($2)) as bl;\n",
        "begin {\n    if (1) {\n        exit();\n    } else if (2) {\n    } else {\n        if (3) {}\n    }\n}\n",
        "begin { @[(1, 2)] = 1; $x = (uint8)3; $y = (a = 1, b = 2); }\n",
        "begin { if (pid in (1, 2, (3 - 1), 5-9)) {} }\n",
    ] {
        // `{\n    }` is the one thing that is joined.
        let once = ok(same);
        assert_eq!(ok(&once), once);
        assert_eq!(once.replace("{}", "{\n    }"), same.replace("{}", "{\n    }"));
    }
}

#[test]
fn broken_text_is_not_touched() {
    assert!(matches!(format("begin { "), Err(FormatError::Syntax(_))));
    assert_eq!(ok(""), "");
    assert_eq!(ok("\n\n// only this\n\n"), "// only this\n");
}
