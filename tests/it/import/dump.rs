//! A small dump as `mariadb-dump` writes it, with as many rows as a test wants.

use std::io::{Cursor, Write};

/// Two departments, categories and articles that refer to one another, with the odd values of real
/// shops.
#[derive(Clone, Copy, Debug)]
pub struct Dump {
    /// Rows of `articulo`.
    pub articles: u32,
    /// Rows of `categoria`.
    pub categories: u32,
    /// Written into every description, to tell one dump's rows from another's.
    pub mark: &'static str,
    /// Let the last article refer to a category that is not there.
    pub orphan: bool,
    /// End with the completion line.
    pub complete: bool,
    /// Leave the table `articulo` out.
    pub without_articles: bool,
}

impl Default for Dump {
    fn default() -> Self {
        Self {
            articles: 300,
            categories: 12,
            mark: "uno",
            orphan: false,
            complete: true,
            without_articles: false,
        }
    }
}

impl Dump {
    /// A dump of so many articles, marked.
    pub fn new(articles: u32, mark: &'static str) -> Self {
        Self { articles, mark, ..Self::default() }
    }

    /// The SQL text.
    pub fn sql(&self) -> String {
        let mut sql = String::from(
            "-- MariaDB dump 10.19  Distrib 10.11.6-MariaDB, for debian-linux-gnu (x86_64)\n--\n\
             /*!40101 SET NAMES utf8mb4 */;\n/*!40103 SET TIME_ZONE='+00:00' */;\n\
             /*!40101 SET @OLD_SQL_MODE=@@SQL_MODE, SQL_MODE='NO_AUTO_VALUE_ON_ZERO' */;\n\n\
             CREATE TABLE `departamento` (\n  `dep_id` int(11) NOT NULL AUTO_INCREMENT,\n  \
             `nombre` varchar(100) NOT NULL,\n  PRIMARY KEY (`dep_id`)\n) ENGINE=InnoDB \
             AUTO_INCREMENT=7 DEFAULT CHARSET=utf8mb4;\n\
             INSERT INTO `departamento` VALUES\n(1,'Ferretería'),\n(2,'Jardín');\n\n\
             CREATE TABLE `categoria` (\n  `cat_id` int(11) NOT NULL AUTO_INCREMENT,\n  `nombre` \
             varchar(100) NOT NULL,\n  `dep_id` int(11) NOT NULL,\n  PRIMARY KEY (`cat_id`),\n  \
             KEY `dep_idx` (`dep_id`),\n  CONSTRAINT `fk_categoria_departamento` FOREIGN KEY \
             (`dep_id`) REFERENCES `departamento` (`dep_id`)\n) ENGINE=InnoDB DEFAULT \
             CHARSET=utf8mb4 COMMENT='Categorías';\n",
        );
        let categories: Vec<String> = (1..=self.categories)
            .map(|id| format!("({id},'Categoría {id}',{})", id % 2 + 1))
            .collect();
        insert(&mut sql, "categoria", &categories);
        if !self.without_articles {
            sql.push_str(
                "CREATE TABLE `articulo` (\n  `art_id` int(11) NOT NULL AUTO_INCREMENT,\n  \
                 `claveAlterna` varchar(50) DEFAULT NULL,\n  `descripcion` text NOT NULL,\n  \
                 `precio1` decimal(10,2) NOT NULL DEFAULT 0.00,\n  `alta` date NOT NULL DEFAULT \
                 '0000-00-00',\n  `foto` blob DEFAULT NULL,\n  `cat_id` int(11) DEFAULT NULL,\n  \
                 `modificado` timestamp NOT NULL DEFAULT current_timestamp() ON UPDATE \
                 current_timestamp(),\n  PRIMARY KEY (`art_id`),\n  UNIQUE KEY `clave` \
                 (`claveAlterna`),\n  KEY `cat_idx` (`cat_id`),\n  CONSTRAINT \
                 `fk_articulo_categoria` FOREIGN KEY (`cat_id`) REFERENCES `categoria` (`cat_id`)\n) \
                 ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;\n",
            );
            let articles: Vec<String> = (1..=self.articles).map(|id| self.article(id)).collect();
            insert(&mut sql, "articulo", &articles);
        }
        if self.complete {
            sql.push_str("-- Dump completed on 2026-11-22  6:00:00\n");
        }
        sql
    }

    fn article(&self, id: u32) -> String {
        let key = if id.is_multiple_of(5) { "NULL".to_owned() } else { format!("'Clave-{id}'") };
        let day = if id.is_multiple_of(7) { "0000-00-00" } else { "2024-02-29" };
        let picture = if id.is_multiple_of(3) { "NULL" } else { "0x00ff5c270a" };
        let category = match id {
            _ if self.orphan && id == self.articles => "999".to_owned(),
            _ if id.is_multiple_of(11) => "NULL".to_owned(),
            _ => (id % self.categories + 1).to_string(),
        };
        format!(
            "({id},{key},'{mark}: tornillo {id}/8\\\" \\'ñ\\' \\\\ \\n\\tfin',{id}.50,'{day}',\
             {picture},{category},'2025-08-22 02:12:36')",
            mark = self.mark,
        )
    }

    /// The gzip file.
    pub fn gzip(&self) -> Vec<u8> {
        gzip(self.sql().as_bytes())
    }

    /// The gzip file to be read by an import.
    pub fn reader(&self) -> Cursor<Vec<u8>> {
        Cursor::new(self.gzip())
    }
}

/// Two INSERT statements where there are enough rows, as in real dumps.
fn insert(sql: &mut String, table: &str, rows: &[String]) {
    for part in rows.chunks(rows.len().div_ceil(2).max(1)) {
        sql.push_str(&format!("INSERT INTO `{table}` VALUES\n{};\n", part.join(",\n")));
    }
}

/// Packs a text.
pub fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).expect("pack into memory");
    encoder.finish().expect("pack into memory")
}
