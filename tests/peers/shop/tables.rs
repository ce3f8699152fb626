//! The rows of each table.
//!
//! Every table has a random number generator of its own, so that one table's rows do not depend on
//! how many rows another has.

use anyhow::Context;
use chrono::{Days, NaiveDate};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use relevo_tests::MariaDb;

use crate::rows::Rows;
use crate::words;

/// The database's name, as SICAR calls it.
pub(crate) const DATABASE: &str = "sicar";

/// What the tables are filled with.
pub(crate) struct Shop<'a> {
    pub(crate) server: &'a MariaDb,
    pub(crate) seed: u64,
    /// About how large the dump is to become, in bytes.
    pub(crate) size_bytes: u64,
    days: Vec<String>,
    articles: Vec<(String, String)>,
    clients: u32,
}

const DEPARTMENTS: u32 = 20;
const CATEGORIES: u32 = 200;
const USERS: u32 = 24;

/// Ten years of business.
const DAYS: u64 = 3650;

impl<'a> Shop<'a> {
    pub(crate) fn new(server: &'a MariaDb, seed: u64, size_bytes: u64) -> anyhow::Result<Self> {
        let first = NaiveDate::from_ymd_opt(2016, 1, 1).context("a first day")?;
        let days = (0..DAYS).map(|day| (first + Days::new(day)).to_string()).collect();
        Ok(Self { server, seed, size_bytes, days, articles: Vec::new(), clients: 0 })
    }

    /// Fills all tables; `report` is told of each when it is loaded.
    pub(crate) fn fill(&mut self, mut report: impl FnMut(&str, u64)) -> anyhow::Result<()> {
        self.departments()?;
        self.categories()?;
        self.articles()?;
        self.suppliers()?;
        self.users()?;
        self.clients()?;
        report("los catálogos", self.articles.len() as u64);
        report("venta, detallev", self.sales()?);
        report("movimiento", self.movements()?);
        report("imagen", self.images()?);
        report("bitácora", self.log()?);
        self.cuts()?;
        self.settings()
    }

    /// A generator and a file for a table.
    fn table(&self, name: &str) -> anyhow::Result<(SmallRng, Rows)> {
        let salt = name.bytes().fold(0u64, |salt, byte| salt.wrapping_mul(31) + u64::from(byte));
        let rng = SmallRng::seed_from_u64(self.seed.rotate_left(32) ^ salt);
        Ok((rng, Rows::create(self.server.folder(), name)?))
    }

    /// Loads a table's file: `columns` as `LOAD DATA` takes them, empty for all in their order.
    fn load(&self, table: &str, rows: Rows, columns: &str) -> anyhow::Result<()> {
        let path = rows.finish()?;
        self.server
            .run(&format!(
                "SET NAMES utf8mb4; SET time_zone = '-06:00'; \
                 SET foreign_key_checks = 0, unique_checks = 0, sql_mode = ''; \
                 LOAD DATA INFILE '{}' INTO TABLE {DATABASE}.`{table}` CHARACTER SET utf8mb4 {columns};",
                path.display()
            ))
            .with_context(|| format!("load {table}"))?;
        std::fs::remove_file(path).context("remove the loaded file")
    }

    fn share(&self, percent: u64) -> u64 {
        self.size_bytes / 100 * percent
    }

    fn day(&self, rng: &mut SmallRng) -> &str {
        &self.days[rng.random_range(0..self.days.len())]
    }

    fn departments(&self) -> anyhow::Result<()> {
        let (mut rng, mut rows) = self.table("departamento")?;
        for id in 1..=DEPARTMENTS {
            rows.plain(id).text(&format!("{} {id}", words::product(&mut rng)));
            rows.plain(id % 2).decimal(rng.random_range(0..10_000), 2);
            rows.plain(u8::from(id == 1)).plain(1).decimal(rng.random_range(0..1000), 2).end()?;
        }
        self.load("departamento", rows, "")
    }

    fn categories(&self) -> anyhow::Result<()> {
        let (mut rng, mut rows) = self.table("categoria")?;
        for id in 1..=CATEGORIES {
            rows.plain(id).text(&words::product(&mut rng)).plain(u8::from(id == 1));
            rows.plain(rng.random_range(-1..=1)).plain(rng.random_range(1..=DEPARTMENTS));
            rows.decimal(rng.random_range(0..1000), 2).end()?;
        }
        self.load("categoria", rows, "")
    }

    fn articles(&mut self) -> anyhow::Result<()> {
        let (mut rng, mut rows) = self.table("articulo")?;
        let count = (self.size_bytes / 5000).clamp(150, 50_000);
        for id in 1..=count {
            let (key, name) = (format!("75000{id:07}"), words::product(&mut rng));
            rows.plain(id).text(&key);
            let alternative = format!("ALT-{id:06}");
            rows.maybe((id % 3 == 0).then_some(&alternative));
            rows.text(&name).plain(u8::from(rng.random_ratio(1, 50)));
            rows.text(&format!("Pasillo {}", rng.random_range(1..40)));
            let features = words::sentence(&mut rng, 12);
            rows.maybe(rng.random_ratio(1, 4).then_some(&features));
            for _ in 0..4 {
                rows.decimal(rng.random_range(0..9_000), 2);
            }
            let price = rng.random_range(100..500_000);
            for step in 0..4 {
                rows.decimal(price - price * step / 20, 2);
            }
            rows.decimal(100, 2).decimal(rng.random_range(100..5_000), 2).null();
            if rng.random() {
                rows.null()
            } else {
                rows.decimal(1_200, 2)
            };
            rows.decimal(rng.random_range(0..2_000), 2).decimal(rng.random_range(2_000..50_000), 2);
            rows.decimal(rng.random_range(-5_000..100_000), 2);
            rows.plain(if rng.random_ratio(1, 30) { -1 } else { 1 });
            rows.decimal(rng.random_range(1..200_000), 4).decimal(price * 2 / 3, 2);
            if id % 7 == 0 {
                rows.null()
            } else {
                rows.decimal(price * 2 / 3 + 1, 2)
            };
            rows.text("CAJA").text(if rng.random() { "PIEZA" } else { "MÓDULO" }).null();
            rows.plain(rng.random_range(1..=CATEGORIES)).end()?;
            self.articles.push((key, name));
        }
        self.load("articulo", rows, "")
    }

    fn suppliers(&self) -> anyhow::Result<()> {
        let (mut rng, mut rows) = self.table("proveedor")?;
        for id in 1..=40u16 {
            rows.plain(id).text(&format!("{} y Cía. «{id}» €", words::person(&mut rng)));
            rows.text(if id.is_multiple_of(4) { "" } else { "NUPJ800101A12" });
            rows.maybe((id % 3 != 0).then_some("Av. Álvaro Obregón 12\nCol. Peñón\\Norte"));
            rows.plain(if id % 5 == 0 { "0000-00-00" } else { self.day(&mut rng) }).end()?;
        }
        self.load("proveedor", rows, "")
    }

    fn users(&self) -> anyhow::Result<()> {
        let (mut rng, mut rows) = self.table("usuario")?;
        for id in 1..=USERS {
            let mut password = [0; 32];
            rng.fill_bytes(&mut password);
            rows.plain(id).text(&words::person(&mut rng)).bytes(&password);
            // Some refer to users who come later in the dump.
            if id % 6 == 1 {
                rows.null()
            } else {
                rows.plain((id * 7) % USERS + 1)
            };
            rows.end()?;
        }
        self.load("usuario", rows, "(usr_id, nombre, @c, supervisor_id) SET clave = UNHEX(@c)")
    }

    fn clients(&mut self) -> anyhow::Result<()> {
        let (mut rng, mut rows) = self.table("cliente")?;
        let kinds = ["público", "mayorista", "crédito", "empleado 'de casa'"];
        let preferences = ["", "factura", "envío", "factura,correo", "factura,envío,correo"];
        while rows.dump_bytes() < self.share(3) || self.clients < 60 {
            self.clients += 1;
            rows.plain(self.clients).text(&words::person(&mut rng));
            rows.maybe(rng.random::<bool>().then_some("XAXX010101000"));
            rows.maybe(rng.random::<bool>().then_some("55-1234-5678"));
            rows.maybe(rng.random::<bool>().then_some("correo@ejemplo.mx"));
            let address = words::sentence(&mut rng, 6);
            rows.maybe(rng.random::<bool>().then_some(&address));
            rows.decimal(rng.random_range(0..10_000_000), 2);
            match rng.random_range(0..6) {
                0 => rows.plain("0000-00-00"),
                1 => rows.null(),
                2 => rows.plain("1985-00-00"),
                _ => rows.plain(self.day(&mut rng)),
            };
            match rng.random_range(0..8) {
                0 => rows.plain("0000-00-00 00:00:00"),
                _ => rows.plain(format_args!("{} 23:59:59", self.day(&mut rng))),
            };
            rows.text(kinds[rng.random_range(0..kinds.len())]);
            rows.text(preferences[rng.random_range(0..preferences.len())]);
            rows.plain(rng.random::<u16>()).decimal(rng.random_range(-1_000_000..1_000_000), 4);
            rows.plain([0, 1, 1, 2][rng.random_range(0..4)]);
            // Quarters: six digits are enough for them in both servers.
            let quarter = f64::from(rng.random_range(-400..400)) / 4.0;
            if rng.random_ratio(1, 3) {
                rows.null()
            } else {
                rows.plain(quarter)
            };
            rows.maybe(rng.random_ratio(1, 3).then_some(words::awkward(&mut rng))).end()?;
        }
        self.load("cliente", rows, "")
    }

    /// Sales and their lines, whose sums agree.
    fn sales(&self) -> anyhow::Result<u64> {
        let (mut rng, mut sales) = self.table("venta")?;
        let (_, mut lines) = self.table("detallev")?;
        let kinds = ["contado", "contado", "contado", "crédito", "apartado"];
        let mut id = 0u64;
        while sales.dump_bytes() + lines.dump_bytes() < self.share(48) {
            id += 1;
            let mut subtotal = 0;
            for line in 1..=rng.random_range(1..=7) {
                let article = rng.random_range(0..self.articles.len());
                let (key, name) = &self.articles[article];
                let thousandths = rng.random_range(1..20_000i64);
                let price = rng.random_range(1_000_000..900_000_000i64);
                let amount = thousandths * (price / 10_000) / 1000;
                subtotal += amount;
                lines.plain(id).plain(line).plain(article + 1).text(key).text(name);
                lines.decimal(thousandths, 3).decimal(price, 6).decimal(price * 116 / 100, 6);
                lines.decimal(amount, 2);
                if line == 3 {
                    lines.null()
                } else {
                    lines.decimal(price / 15_000, 2)
                };
                lines.text(if line == 2 { "MÓDULO" } else { "PIEZA" });
                lines.decimal(price, 6).decimal(price * 116 / 100, 6);
                lines.decimal(price / 3 * 2, 6).plain(u8::from(line == 5));
                lines.maybe(rng.random_ratio(1, 9).then_some("L-2024/ñ")).text("Mostrador nº 1");
                lines.end()?;
            }
            // In the order of time, as a shop's sales are.
            let day = &self.days[usize::try_from(id / 40)? % self.days.len()];
            let second = rng.random_range(28_800..79_200);
            let time = format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60);
            sales.plain(id).plain(format_args!("{day} {time}")).plain(&time);
            sales.text(kinds[rng.random_range(0..kinds.len())]);
            sales.plain(9_223_372_036_854_775_000u64 + id).decimal(subtotal, 2);
            sales.decimal(rng.random_range(0..2_000), 2).decimal(subtotal * 16 / 100, 2);
            sales.decimal(subtotal * 116 / 100, 2);
            sales.plain(match rng.random_range(0..50) {
                0 => -1,
                1 => 2,
                _ => 1,
            });
            let comment = words::sentence(&mut rng, 4);
            sales.maybe(rng.random_ratio(1, 12).then_some(&comment));
            if rng.random() {
                sales.null()
            } else {
                sales.plain(rng.random_range(1..=self.clients))
            };
            sales.plain(rng.random_range(1..=USERS));
            match rng.random_range(0..4) {
                0 => sales.null(),
                1 => sales.plain(format_args!("{day} {time}")),
                _ => sales.plain("0000-00-00 00:00:00"),
            };
            if rng.random_ratio(1, 40) {
                sales.plain(format_args!("{day} {time}"))
            } else {
                sales.null()
            };
            sales.plain(format_args!("{day} {time}")).end()?;
        }
        self.load("venta", sales, "")?;
        self.load("detallev", lines, "")?;
        Ok(id)
    }

    fn movements(&self) -> anyhow::Result<u64> {
        let (mut rng, mut rows) = self.table("movimiento")?;
        let mut id = 0u64;
        while rows.dump_bytes() < self.share(13) {
            id += 1;
            rows.plain(id).plain(rng.random_range(1..=self.articles.len()));
            let day = &self.days[usize::try_from(id / 90)? % self.days.len()];
            rows.plain(format_args!("{day} 12:30:15.{:03}", rng.random_range(0..1000)));
            rows.text(["VEN", "COM", "A"][rng.random_range(0..3)]);
            rows.decimal(rng.random_range(-50_000..50_000), 3)
                .decimal(rng.random_range(0..900_000), 3);
            rows.decimal(rng.random_range(0..90_000_000), 6).plain(rng.random_range(1..=USERS));
            rows.text(&format!("DOC-{:08}", id / 3));
            let sale = format!("Venta {}", id / 3);
            rows.maybe(rng.random_ratio(2, 3).then_some(&sale)).end()?;
        }
        self.load("movimiento", rows, "")?;
        Ok(id)
    }

    /// Pictures: half of the bytes are noise, as in a compressed picture.
    fn images(&self) -> anyhow::Result<u64> {
        let (mut rng, mut rows) = self.table("imagen")?;
        let every_byte: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
        let largest = (self.size_bytes / 50).clamp(4_000, 60_000);
        let mut id = 0u64;
        while rows.dump_bytes() < self.share(28) {
            id += 1;
            let length = usize::try_from(rng.random_range(600..largest))?;
            let mut picture = vec![0; length];
            rng.fill_bytes(&mut picture[..length / 2]);
            for (offset, byte) in picture[length / 2..].iter_mut().enumerate() {
                *byte = every_byte[offset % every_byte.len()];
            }
            rows.plain(id).plain(rng.random_range(1..=self.articles.len()));
            rows.text(&format!("diseño_{id}.jpg"));
            match id % 5 {
                0 => rows.null(),
                1 => rows.bytes(&[]),
                _ => rows.bytes(&picture[length / 2..length / 2 + 64]),
            };
            rows.bytes(&picture);
            if id.is_multiple_of(4) {
                rows.null()
            } else {
                rows.bytes(&picture[..20])
            };
            match rng.random_range(0..6) {
                0 => rows.plain("0000-00-00 00:00:00"),
                _ => rows.plain(format_args!("{} 08:00:00", self.day(&mut rng))),
            };
            rows.end()?;
        }
        let columns = "(img_id, art_id, nombre, @m, @i, @h, creada) \
                       SET miniatura = UNHEX(@m), imagen = UNHEX(@i), huella = UNHEX(@h)";
        self.load("imagen", rows, columns)?;
        Ok(id)
    }

    fn log(&self) -> anyhow::Result<u64> {
        let (mut rng, mut rows) = self.table("bitácora")?;
        let mut id = 0u64;
        while rows.dump_bytes() < self.share(7) {
            id += 1;
            rows.plain(id);
            rows.plain(format_args!("{} 10:20:30.{:06}", self.day(&mut rng), id % 1_000_000));
            if id.is_multiple_of(2) {
                rows.null()
            } else {
                rows.plain(rng.random::<i32>())
            };
            let length = rng.random_range(3..18);
            rows.plain(rng.random::<i8>()).text(&words::sentence(&mut rng, length)).end()?;
        }
        self.load("bitácora", rows, "")?;
        Ok(id)
    }

    /// Numbers at the ends of their ranges.
    fn cuts(&self) -> anyhow::Result<()> {
        let (mut rng, mut rows) = self.table("corte")?;
        for id in 1..=64u64 {
            rows.plain(if id == 64 { 16_777_000 } else { id }).plain(2000 + id % 60);
            match id % 6 {
                0 => rows.null(),
                1 => rows.plain("-838:59:59"),
                2 => rows.plain("838:59:59"),
                3 => rows.plain("-00:00:01"),
                _ => rows.plain("07:30:00"),
            };
            rows.plain(id * 4 % 256).plain(id % 2);
            let quarter = f64::from(rng.random_range(-4_000..4_000)) / 4.0;
            if id % 9 == 0 {
                rows.null().null()
            } else {
                rows.plain(quarter).plain(quarter * 8.0)
            };
            rows.plain(id);
            rows.plain(match id % 4 {
                0 => u64::MAX,
                1 => 0,
                _ => rng.random(),
            });
            rows.plain(match id % 4 {
                0 => i64::MIN,
                1 => i64::MAX,
                _ => rng.random(),
            });
            rows.plain(format_args!("{}.{:020}", rng.random::<i64>(), rng.random::<u32>()));
            rows.plain(match id % 3 {
                0 => i8::MIN,
                1 => i8::MAX,
                _ => 0,
            });
            rows.end()?;
        }
        let columns = "(cor_id, ejercicio, duracion, @b, @a, fondo, total, caja, folioFiscal, \
                       diferencia, tipoCambio, nivel) SET banderas = @b + 0, abierto = @a + 0";
        self.load("corte", rows, columns)
    }

    /// Every awkward text by itself.
    fn settings(&self) -> anyhow::Result<()> {
        let (_, mut rows) = self.table("configuracion")?;
        for (number, text) in words::all_awkward().enumerate() {
            rows.text(&format!("texto.{number:02}")).text(text).end()?;
        }
        rows.text("nada").null().end()?;
        rows.text("Nada").text("otra clave: solo difiere la mayúscula").end()?;
        rows.text("largo").text(&words::all_awkward().collect::<String>().repeat(40)).end()?;
        self.load("configuracion", rows, "")
    }
}
