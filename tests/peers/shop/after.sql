-- What a dump holds beside tables, made once the rows are in.

CREATE VIEW existencias AS
    SELECT a.clave, a.descripcion, a.existencia, c.nombre AS categoria
    FROM articulo a JOIN categoria c ON c.cat_id = a.cat_id
    WHERE a.existencia > 0;

DELIMITER ;;
CREATE TRIGGER venta_con_folio BEFORE INSERT ON venta FOR EACH ROW
BEGIN
    IF NEW.folio = 0 THEN SET NEW.folio = UNIX_TIMESTAMP(); END IF;
    -- The semicolons are the point; so is 'this quote''s end'.
END;;
DELIMITER ;
