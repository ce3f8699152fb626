//! A short, deterministic run of the fuzz targets' entry points: mutations of real statements, and
//! inputs made to exhaust what has no bounds.

#[path = "../fuzz/entry_points.rs"]
mod entry_points;

use std::time::{Duration, Instant};

/// Statements that between them visit most of the grammar.
const SEEDS: [&str; 8] = [
    "/*!40101 SET NAMES utf8mb4 */;\nCREATE TABLE `t` (`id` int(11) NOT NULL AUTO_INCREMENT, `n` \
     varchar(20) DEFAULT 'a''b', `j` json CHECK (json_valid(`j`)), PRIMARY KEY (`id`), UNIQUE KEY \
     `u` (`n`(5) DESC)) ENGINE=InnoDB COMMENT='x';\nINSERT INTO `t` VALUES (1,'it\\'s\\n',NULL),(2,_binary \
     '\\0\\Z','{}');\n",
    "CREATE TABLE t (a enum('x','y'), b set('p','q'), g int GENERATED ALWAYS AS (case when (a = 'x') \
     then 1 else -(2) end) STORED, k ((lower(`b`))));\nINSERT INTO t (a,b) VALUES ('x','p,q'),(0,3);",
    "DELIMITER ;;\n/*!50003 CREATE*/ /*!50003 TRIGGER t BEGIN SET @a=1; END */;;\nDELIMITER ;\n",
    "SET sql_mode='ANSI_QUOTES,NO_BACKSLASH_ESCAPES';\nCREATE TABLE \"a\" (\"b\" text);\nINSERT INTO \
     \"a\" VALUES ('\\');",
    "SET NAMES sjis;\nCREATE TABLE t (a text);\nINSERT INTO t VALUES ('\u{83}\\'),(0x8f5c),(b'101');",
    "CREATE TABLE t (d date, e datetime(6), f timestamp, y year, m time(3), x float, z decimal(65,30), \
     w bit(9), p point);\nINSERT INTO t VALUES ('0000-00-00','2020-01-01 00:00:00.5','2020-01-01',99,\
     '-838:59:59',1e5,0.1,b'1',NULL);",
    "ALTER TABLE t ADD COLUMN (a int, b int), MODIFY x int FIRST, DROP KEY k, RENAME TO u, ORDER BY a;",
    "CREATE VIEW v AS select `t`.`id` AS `id`,count(0) AS `c` from (`t` left join `u` on(`t`.`id` = \
     `u`.`id`)) where `t`.`d` between '2020-01-01' and now() group by `t`.`id` order by 1 limit 1,2;",
];

/// Numbers that look random and are the same every time.
struct Sequence(u64);

impl Sequence {
    fn below(&mut self, limit: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit.max(1)
    }
}

/// One to four small damages.
fn mutate(seed: &[u8], other: &[u8], random: &mut Sequence) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes.truncate(at.max(1)),
            2 => bytes.insert(at, b"'\"`\\();,-/*#\0\xff"[random.below(14)]),
            3 => {
                bytes.remove(at);
            }
            4 => {
                let (from, length) = (random.below(other.len()), random.below(40));
                let piece = other[from..(from + length).min(other.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let end = (at + random.below(30)).min(bytes.len());
                let piece = bytes[at..end].repeat(random.below(20));
                bytes.splice(at..end, piece);
            }
        }
        if bytes.is_empty() {
            bytes.push(b'(');
        }
    }
    bytes
}

#[test]
fn damaged_statements_end_in_an_answer() {
    let mut random = Sequence(7);
    for round in 0..4_000 {
        let seed = SEEDS[round % SEEDS.len()].as_bytes();
        let other = SEEDS[random.below(SEEDS.len())].as_bytes();
        let input = mutate(seed, other, &mut random);
        entry_points::tokenizer(&input);
        if round % 4 == 0 {
            entry_points::ddl(&input);
        }
    }
}

#[test]
fn inputs_without_bounds_end_soon() {
    let begun = Instant::now();
    let table = "CREATE TABLE `t` (`a` int, `b` text);\nINSERT INTO `t` VALUES ";
    for piece in [
        "(",
        "((",
        "- ",
        "_utf8 ",
        "'",
        "\\",
        "/*",
        "/*!50001 ",
        "--",
        ",",
        "`",
        "1",
        "x(",
        "\0",
        "(1,'a'),",
    ] {
        let many = piece.repeat(200_000 / piece.len());
        entry_points::tokenizer(many.as_bytes());
        entry_points::tokenizer(format!("\u{ff}{table}({many}").as_bytes());
        let few = piece.repeat(20_000 / piece.len());
        entry_points::ddl(few.as_bytes());
    }
    for expression in ["not ", "-", "(", "case when ", "a + ", "if(1,"] {
        entry_points::ddl(format!("g int AS ({})", expression.repeat(5_000)).as_bytes());
    }
    // Generous: only what grows with the square of the input fails.
    assert!(begun.elapsed() < Duration::from_secs(120));
}
