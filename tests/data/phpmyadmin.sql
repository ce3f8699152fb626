-- phpMyAdmin SQL Dump
-- version 5.2.1
-- https://www.phpmyadmin.net/
--
-- Host: localhost
-- Generation Time: Nov 22, 2026 at 06:00 PM
-- Server version: 10.11.6-MariaDB

SET SQL_MODE = "NO_AUTO_VALUE_ON_ZERO";
START TRANSACTION;
SET time_zone = "+00:00";

/*!40101 SET @OLD_CHARACTER_SET_CLIENT=@@CHARACTER_SET_CLIENT */;
/*!40101 SET NAMES utf8mb4 */;

-- --------------------------------------------------------

--
-- Table structure for table `estado`
--

CREATE TABLE `estado` (
  `id` int(10) UNSIGNED NOT NULL,
  `clave` char(3) COLLATE utf8mb4_unicode_ci NOT NULL DEFAULT '',
  `nombre` varchar(80) COLLATE utf8mb4_unicode_ci DEFAULT NULL COMMENT 'con ''comillas'' y \\ barra',
  `tipo` enum('grande','chico','d''oro') COLLATE utf8mb4_unicode_ci DEFAULT 'chico',
  `marcas` set('a','b','c') COLLATE utf8mb4_unicode_ci NOT NULL DEFAULT '',
  `superficie` decimal(12,3) DEFAULT NULL,
  `latitud` double DEFAULT NULL,
  `escala` float NOT NULL DEFAULT 1.5,
  `fundado` date NOT NULL DEFAULT '0000-00-00',
  `visto` datetime(3) DEFAULT NULL,
  `cambiado` timestamp NOT NULL DEFAULT current_timestamp() ON UPDATE current_timestamp(),
  `horario` time DEFAULT NULL,
  `lema` text COLLATE utf8mb4_unicode_ci DEFAULT NULL,
  `sello` blob DEFAULT NULL,
  `activo` tinyint(1) NOT NULL DEFAULT 1,
  `bandera` bit(4) DEFAULT NULL,
  `censo` year(4) DEFAULT NULL,
  `ficha` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL CHECK (json_valid(`ficha`))
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;

--
-- Dumping data for table `estado`
--

INSERT INTO `estado` (`id`, `clave`, `nombre`, `tipo`, `marcas`, `superficie`, `latitud`, `escala`, `fundado`, `visto`, `cambiado`, `horario`, `lema`, `sello`, `activo`, `bandera`, `censo`, `ficha`) VALUES
(1, 'CMX', 'Ciudad de México', 'chico', 'a,c', '1494.300', 19.4326, 1.5, '1824-11-18', '2026-11-22 18:00:00.125', '2026-11-22 18:00:00', '09:30:00', 'línea uno\r\nlínea\tdos', 0x00ff5c27, 1, b'1010', 2020, '{\"pob\": 9209944, \"zonas\": [1, 2.50, \"tres\"]}'),
(2, 'OAX', 'O''axaca \\ \"norte\"', 'd''oro', '', '93757.000', -0.000001, -2.25, '0000-00-00', NULL, '2025-01-01 00:00:00', '-838:59:59', '', '', 0, b'0', NULL, NULL),
(3, '', NULL, NULL, 'a,b,c', NULL, NULL, 0, '2000-02-29', '1000-01-01 00:00:00.000', '1970-01-01 00:00:01', '838:59:59', '\\N', NULL, 2, NULL, 1901, '[]'),
(4, 'ñ€', 'emoji 😀 y 漢字', 'grande', 'b', '-0.001', 1e300, 3.25, '9999-12-31', '9999-12-31 23:59:59.999', '2038-01-19 03:14:07', '00:00:00', '\\.', 0x2e, -1, b'1111', 2155, 'null');

-- --------------------------------------------------------

CREATE TABLE `ciudad` (
  `id` bigint(20) UNSIGNED NOT NULL,
  `estado_id` int(10) UNSIGNED DEFAULT NULL,
  `order` varchar(20) COLLATE latin1_spanish_ci NOT NULL,
  `vecina_id` bigint(20) UNSIGNED DEFAULT NULL
) ENGINE=InnoDB DEFAULT CHARSET=latin1 COLLATE=latin1_spanish_ci;

INSERT INTO `ciudad` (`id`, `estado_id`, `order`, `vecina_id`) VALUES
(18446744073709551615, 1, 'Coyoacán', 5),
(5, 2, 'Etla', 18446744073709551615),
(6, NULL, '', NULL);

--
-- Indexes for dumped tables
--

ALTER TABLE `ciudad`
  ADD PRIMARY KEY (`id`),
  ADD KEY `estado_id` (`estado_id`),
  ADD KEY `vecina_id` (`vecina_id`);

ALTER TABLE `estado`
  ADD PRIMARY KEY (`id`),
  ADD UNIQUE KEY `clave` (`clave`),
  ADD KEY `lema` (`lema`(20)),
  ADD KEY `estado_id` (`nombre`,`tipo`);

ALTER TABLE `ciudad`
  MODIFY `id` bigint(20) UNSIGNED NOT NULL;

ALTER TABLE `estado`
  MODIFY `id` int(10) UNSIGNED NOT NULL AUTO_INCREMENT, AUTO_INCREMENT=42;

ALTER TABLE `ciudad`
  ADD CONSTRAINT `ciudad_ibfk_1` FOREIGN KEY (`estado_id`) REFERENCES `estado` (`id`) ON DELETE SET NULL ON UPDATE CASCADE,
  ADD CONSTRAINT `ciudad_ibfk_2` FOREIGN KEY (`vecina_id`) REFERENCES `ciudad` (`id`);
COMMIT;

/*!40101 SET CHARACTER_SET_CLIENT=@OLD_CHARACTER_SET_CLIENT */;
