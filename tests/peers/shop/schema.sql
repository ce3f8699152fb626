-- A shop as SICAR keeps it: departamento, categoria and articulo as documented, the rest after the
-- manner of such systems, with every type, engine and oddity that an import has to bring over.

CREATE TABLE departamento (
    dep_id      INT          NOT NULL AUTO_INCREMENT,
    nombre      VARCHAR(100) NOT NULL,
    restringido TINYINT(1)   NOT NULL DEFAULT 0,
    porcentaje  DECIMAL(5,2) DEFAULT NULL,
    `system`    TINYINT      NOT NULL DEFAULT 0,
    status      TINYINT      NOT NULL DEFAULT 1,
    comision    DECIMAL(5,2) NOT NULL DEFAULT 0.00,
    PRIMARY KEY (dep_id),
    UNIQUE KEY nombre_UNIQUE (nombre)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;

CREATE TABLE categoria (
    cat_id   INT          NOT NULL AUTO_INCREMENT,
    nombre   VARCHAR(100) NOT NULL,
    `system` TINYINT      NOT NULL DEFAULT 0,
    status   TINYINT      NOT NULL DEFAULT 1,
    dep_id   INT          NOT NULL,
    comision DECIMAL(5,2) NOT NULL DEFAULT 0.00,
    PRIMARY KEY (cat_id),
    KEY fk_categoria_departamento1_idx (dep_id),
    CONSTRAINT fk_categoria_departamento1 FOREIGN KEY (dep_id) REFERENCES departamento (dep_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;

CREATE TABLE articulo (
    art_id          INT           NOT NULL AUTO_INCREMENT,
    clave           VARCHAR(50)   NOT NULL,
    claveAlterna    VARCHAR(50)   DEFAULT NULL,
    descripcion     TEXT          NOT NULL,
    servicio        TINYINT       NOT NULL DEFAULT 0,
    localizacion    VARCHAR(100)  DEFAULT '',
    caracteristicas TEXT          DEFAULT NULL,
    margen1         DECIMAL(10,2) NOT NULL DEFAULT 0.00,
    margen2         DECIMAL(10,2) NOT NULL DEFAULT 0.00,
    margen3         DECIMAL(10,2) NOT NULL DEFAULT 0.00,
    margen4         DECIMAL(10,2) NOT NULL DEFAULT 0.00,
    precio1         DECIMAL(10,2) NOT NULL DEFAULT 0.00,
    precio2         DECIMAL(10,2) NOT NULL DEFAULT 0.00,
    precio3         DECIMAL(10,2) NOT NULL DEFAULT 0.00,
    precio4         DECIMAL(10,2) NOT NULL DEFAULT 0.00,
    mayoreo1        DECIMAL(10,2) NOT NULL DEFAULT 1.00,
    mayoreo2        DECIMAL(10,2) NOT NULL DEFAULT 1.00,
    mayoreo3        DECIMAL(10,2) DEFAULT NULL,
    mayoreo4        DECIMAL(10,2) DEFAULT NULL,
    invMin          DECIMAL(10,2) NOT NULL DEFAULT 0.00,
    invMax          DECIMAL(10,2) NOT NULL DEFAULT 0.00,
    existencia      DECIMAL(10,2) NOT NULL DEFAULT 0.00,
    status          TINYINT       NOT NULL DEFAULT 1,
    factor          DECIMAL(10,4) NOT NULL DEFAULT 1.0000,
    precioCompra    DECIMAL(10,2) NOT NULL DEFAULT 0.00,
    preCompraProm   DECIMAL(10,2) DEFAULT NULL,
    unidadCompra    VARCHAR(20)   DEFAULT NULL,
    unidadVenta     VARCHAR(20)   DEFAULT NULL,
    cuentaPredial   VARCHAR(50)   DEFAULT NULL,
    cat_id          INT           NOT NULL,
    PRIMARY KEY (art_id),
    UNIQUE KEY clave_UNIQUE (clave),
    KEY claveAlterna_idx (claveAlterna),
    KEY descripcion_idx (descripcion(100)),
    KEY fk_articulo_categoria1_idx (cat_id),
    CONSTRAINT fk_articulo_categoria1 FOREIGN KEY (cat_id) REFERENCES categoria (cat_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;

CREATE TABLE proveedor (
    pro_id    SMALLINT UNSIGNED NOT NULL AUTO_INCREMENT,
    nombre    VARCHAR(120)      NOT NULL,
    rfc       CHAR(13)          NOT NULL DEFAULT '',
    direccion TINYTEXT          DEFAULT NULL,
    alta      DATE              NOT NULL DEFAULT '0000-00-00',
    PRIMARY KEY (pro_id),
    KEY nombre (nombre)
) ENGINE=MyISAM DEFAULT CHARSET=latin1 COMMENT='Proveedores: juego de caracteres de antaño';

CREATE TABLE usuario (
    usr_id        TINYINT UNSIGNED NOT NULL AUTO_INCREMENT,
    nombre        VARCHAR(60)      NOT NULL,
    clave         BINARY(32)       NOT NULL,
    supervisor_id TINYINT UNSIGNED DEFAULT NULL COMMENT 'Su jefe; NULL = nadie',
    PRIMARY KEY (usr_id),
    KEY supervisor_idx (supervisor_id),
    CONSTRAINT fk_usuario_supervisor FOREIGN KEY (supervisor_id) REFERENCES usuario (usr_id) ON DELETE SET NULL ON UPDATE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;

CREATE TABLE cliente (
    cli_id          INT UNSIGNED                    NOT NULL AUTO_INCREMENT,
    nombre          VARCHAR(150)                    NOT NULL,
    rfc             CHAR(13)                        DEFAULT NULL,
    telefono        VARCHAR(20)                     DEFAULT NULL,
    correo          VARCHAR(120)                    DEFAULT NULL,
    direccion       TEXT                            DEFAULT NULL,
    limite          DECIMAL(12,2)                   NOT NULL DEFAULT 0.00,
    fechaNacimiento DATE                            DEFAULT NULL,
    alta            DATETIME                        NOT NULL DEFAULT '0000-00-00 00:00:00',
    tipo            ENUM('público','mayorista','crédito','empleado ''de casa''') NOT NULL DEFAULT 'público',
    preferencias    SET('factura','envío','correo') NOT NULL DEFAULT '',
    puntos          SMALLINT UNSIGNED               NOT NULL DEFAULT 0,
    saldo           DECIMAL(14,4)                   NOT NULL DEFAULT 0.0000,
    activo          TINYINT(1)                      NOT NULL DEFAULT 1,
    latitud         DOUBLE                          DEFAULT NULL,
    notas           MEDIUMTEXT                      DEFAULT NULL,
    PRIMARY KEY (cli_id),
    KEY nombre_idx (nombre),
    KEY rfc_idx (rfc)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;

CREATE TABLE venta (
    ven_id     INT              NOT NULL AUTO_INCREMENT,
    fecha      DATETIME         NOT NULL,
    hora       TIME             NOT NULL,
    tipo       ENUM('contado','crédito','apartado') NOT NULL DEFAULT 'contado',
    folio      BIGINT UNSIGNED  NOT NULL,
    subtotal   DECIMAL(14,2)    NOT NULL,
    descuento  DECIMAL(5,2)     NOT NULL DEFAULT 0.00,
    impuestos  DECIMAL(14,2)    NOT NULL,
    total      DECIMAL(14,2)    NOT NULL,
    status     TINYINT(1)       NOT NULL DEFAULT 1,
    comentario VARCHAR(255)     DEFAULT NULL,
    cli_id     INT UNSIGNED     DEFAULT NULL,
    usr_id     TINYINT UNSIGNED NOT NULL,
    entregada  DATETIME         DEFAULT '0000-00-00 00:00:00',
    cancelada  TIMESTAMP        NULL DEFAULT NULL,
    registrada TIMESTAMP        NOT NULL DEFAULT current_timestamp() ON UPDATE current_timestamp(),
    PRIMARY KEY (ven_id),
    KEY fecha_idx (fecha),
    KEY cliente_fecha_idx (cli_id, fecha),
    KEY usuario_idx (usr_id),
    CONSTRAINT fk_venta_cliente FOREIGN KEY (cli_id) REFERENCES cliente (cli_id) ON UPDATE CASCADE,
    CONSTRAINT fk_venta_usuario FOREIGN KEY (usr_id) REFERENCES usuario (usr_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;

CREATE TABLE detallev (
    ven_id        INT               NOT NULL,
    renglon       SMALLINT UNSIGNED NOT NULL,
    art_id        INT               NOT NULL,
    clave         VARCHAR(50)       NOT NULL,
    descripcion   VARCHAR(255)      NOT NULL,
    cantidad      DECIMAL(11,3)     NOT NULL,
    precioSin     DECIMAL(20,6)     NOT NULL,
    precioCon     DECIMAL(20,6)     NOT NULL,
    importe       DECIMAL(14,2)     NOT NULL,
    costo         DECIMAL(10,2)     DEFAULT NULL,
    unidad        VARCHAR(20)       NOT NULL DEFAULT 'PIEZA',
    precioNorSin  DECIMAL(20,6)     NOT NULL,
    precioNorCon  DECIMAL(20,6)     NOT NULL,
    importeCompra DECIMAL(20,6)     NOT NULL,
    ieps          TINYINT(1)        NOT NULL DEFAULT 0,
    lote          VARCHAR(40)       DEFAULT NULL,
    localizacion  VARCHAR(60)       DEFAULT NULL,
    PRIMARY KEY (ven_id, renglon),
    KEY articulo_idx (art_id),
    CONSTRAINT fk_detallev_articulo FOREIGN KEY (art_id) REFERENCES articulo (art_id),
    CONSTRAINT fk_detallev_venta FOREIGN KEY (ven_id) REFERENCES venta (ven_id) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;

CREATE TABLE movimiento (
    mov_id     BIGINT           NOT NULL AUTO_INCREMENT,
    art_id     INT              NOT NULL,
    fecha      DATETIME(3)      NOT NULL,
    tipo       CHAR(3)          NOT NULL,
    cantidad   DECIMAL(11,3)    NOT NULL,
    existencia DECIMAL(11,3)    NOT NULL,
    costo      DECIMAL(20,6)    NOT NULL,
    usr_id     TINYINT UNSIGNED NOT NULL,
    documento  VARCHAR(40)      NOT NULL DEFAULT '',
    referencia VARCHAR(60)      DEFAULT NULL,
    PRIMARY KEY (mov_id),
    KEY articulo_fecha_idx (art_id, fecha)
) ENGINE=MyISAM DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;

CREATE TABLE imagen (
    img_id    INT           NOT NULL AUTO_INCREMENT,
    art_id    INT           NOT NULL,
    nombre    VARCHAR(80)   NOT NULL,
    miniatura BLOB          DEFAULT NULL,
    imagen    MEDIUMBLOB    NOT NULL,
    huella    VARBINARY(20) DEFAULT NULL,
    creada    TIMESTAMP     NOT NULL DEFAULT '0000-00-00 00:00:00',
    PRIMARY KEY (img_id),
    KEY articulo_idx (art_id),
    CONSTRAINT fk_imagen_articulo FOREIGN KEY (art_id) REFERENCES articulo (art_id) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;

CREATE TABLE `bitácora` (
    `bit_id`      INT          NOT NULL AUTO_INCREMENT,
    `momento`     TIMESTAMP(6) NOT NULL DEFAULT current_timestamp(6),
    `tamaño`      INT          DEFAULT NULL,
    `order`       TINYINT      NOT NULL DEFAULT 0,
    `Texto Libre` LONGTEXT     NOT NULL,
    PRIMARY KEY (`bit_id`),
    KEY `momento` (`momento`)
) ENGINE=MyISAM DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci COMMENT='Lo que pasó; con ''comillas'' y \\ diagonales';

CREATE TABLE corte (
    cor_id      MEDIUMINT UNSIGNED       NOT NULL AUTO_INCREMENT,
    ejercicio   YEAR                     NOT NULL,
    duracion    TIME                     DEFAULT NULL,
    banderas    BIT(8)                   NOT NULL,
    abierto     BIT(1)                   NOT NULL DEFAULT b'0',
    fondo       FLOAT                    DEFAULT NULL,
    total       DOUBLE                   DEFAULT NULL,
    caja        INT(6) UNSIGNED ZEROFILL NOT NULL,
    folioFiscal BIGINT UNSIGNED          NOT NULL,
    diferencia  BIGINT                   NOT NULL,
    tipoCambio  DECIMAL(40,20)           NOT NULL,
    nivel       TINYINT                  NOT NULL DEFAULT -1,
    PRIMARY KEY (cor_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;

CREATE TABLE configuracion (
    nombre VARCHAR(64) NOT NULL,
    valor  TEXT        DEFAULT NULL,
    PRIMARY KEY (nombre)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

CREATE TABLE apartado (
    apa_id INT  NOT NULL AUTO_INCREMENT,
    ven_id INT  NOT NULL,
    vence  DATE NOT NULL,
    PRIMARY KEY (apa_id),
    KEY venta_idx (ven_id),
    CONSTRAINT fk_apartado_venta FOREIGN KEY (ven_id) REFERENCES venta (ven_id)
) ENGINE=InnoDB AUTO_INCREMENT=500 DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
