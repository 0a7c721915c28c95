/**
 * What a run found, for people: plain records of results, the tutorial's table as text, loss curves
 * as CSV and picture, one self-contained HTML page, {@code results.json}. Knows nothing of models;
 * only dev.halve.core may come in.
 */
package dev.halve.report;
