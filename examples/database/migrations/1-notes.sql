-- Runs at every switch that changes the pod, so it says what is to be there.
CREATE TABLE IF NOT EXISTS notes (id INT AUTO_INCREMENT PRIMARY KEY, text VARCHAR(255) NOT NULL UNIQUE);
INSERT IGNORE INTO notes (text) VALUES ('the first note');
