package dev.halve;

import static com.tngtech.archunit.library.Architectures.layeredArchitecture;
import static com.tngtech.archunit.library.dependencies.SlicesRuleDefinition.slices;
import static org.assertj.core.api.Assertions.assertThat;

import com.tngtech.archunit.core.domain.JavaClasses;
import com.tngtech.archunit.core.importer.ClassFileImporter;
import com.tngtech.archunit.core.importer.ImportOption;
import java.nio.file.Path;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Test;

/** The rooms of the house: who may use whom. */
class ArchitectureTest {
  private static final JavaClasses CLASSES =
      new ClassFileImporter()
          .withImportOption(new ImportOption.DoNotIncludeTests())
          .importPackages("dev.halve");

  private static final Set<String> ROOMS =
      Set.of("core", "engine", "cpu", "cuda", "qa", "recipe", "report", "cli");

  @Test
  void everyRoomUsesOnlyTheRoomsBelowIt() {
    layeredArchitecture()
        .consideringOnlyDependenciesInLayers()
        .withOptionalLayers(true)
        .layer("core")
        .definedBy("dev.halve.core..")
        .layer("engine")
        .definedBy("dev.halve.engine..")
        .layer("cpu")
        .definedBy("dev.halve.cpu..")
        .layer("cuda")
        .definedBy("dev.halve.cuda..")
        .layer("qa")
        .definedBy("dev.halve.qa..")
        .layer("report")
        .definedBy("dev.halve.report..")
        .layer("recipe")
        .definedBy("dev.halve.recipe..")
        .layer("cli")
        .definedBy("dev.halve.cli..")
        .whereLayer("core")
        .mayNotAccessAnyLayer()
        .whereLayer("engine")
        .mayOnlyAccessLayers("core")
        .whereLayer("cpu")
        .mayOnlyAccessLayers("engine", "core")
        .whereLayer("cuda")
        .mayOnlyAccessLayers("engine", "core")
        .whereLayer("qa")
        .mayOnlyAccessLayers("engine", "core")
        .whereLayer("report")
        .mayOnlyAccessLayers("core")
        .whereLayer("recipe")
        .mayOnlyAccessLayers("report", "qa", "engine", "core")
        .whereLayer("cli")
        .mayOnlyAccessLayers("recipe", "report", "qa", "engine", "core")
        .check(CLASSES);
  }

  @Test
  void noPackagesUseEachOther() {
    slices().matching("dev.halve.(**)").should().beFreeOfCycles().check(CLASSES);
  }

  @Test
  void everyClassIsInARoomAndNoRoomIsEmpty() {
    Set<String> found = new TreeSet<>();
    CLASSES.forEach(type -> {
      String[] names = type.getPackageName().split("\\.");
      found.add(names.length < 3 ? type.getName() : names[2]);
    });
    assertThat(found).isEqualTo(ROOMS);
  }

  @Test
  void nobodyNamesADevicesRoom() {
    for (String room : List.of("cpu", "cuda")) {
      assertThat(
              Sources.java("src/main/java").stream()
                  .filter(file -> !file.startsWith(Path.of("src/main/java/dev/halve", room)))
                  .filter(file -> Sources.read(file).contains("dev.halve." + room)))
          .as("sources outside dev.halve.%s that name it", room)
          .isEmpty();
    }
  }

  @Test
  void everyPackageSaysWhatLivesInIt() {
    Set<Path> packages =
        Sources.java("src/main/java").stream()
            .map(Path::getParent)
            .collect(Collectors.toCollection(TreeSet::new));
    assertThat(packages)
        .allSatisfy(folder ->
            assertThat(Sources.read(folder.resolve("package-info.java")))
                .startsWith("/**\n")
                .containsPattern("package dev\\.halve\\.[a-z.]+;"));
  }
}
