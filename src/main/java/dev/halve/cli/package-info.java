/**
 * The {@code halve} command: one class a command, which parses its options and prints what the
 * rooms below answer. Nothing in here computes, and nothing below knows that there is a terminal.
 */
package dev.halve.cli;
