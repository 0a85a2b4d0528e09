{
  description = "Tank: NixOS generations for containers";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      systems = [ "x86_64-linux" "aarch64-linux" ];
      each = f: nixpkgs.lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
      package =
        pkgs:
        pkgs.rustPlatform.buildRustPackage {
          pname = "tank";
          version = "0.1.0";
          src = self;
          cargoLock.lockFile = ./Cargo.lock;
          nativeBuildInputs = [ pkgs.rustPlatform.bindgenHook ];
          # nixpkgs builds RocksDB already.
          ROCKSDB_LIB_DIR = "${pkgs.rocksdb}/lib";
          ROCKSDB_INCLUDE_DIR = "${pkgs.rocksdb}/include";
          # The tests need root, namespaces and a registry; `make test` runs them.
          doCheck = false;
          # Units, pages for man, completions.
          postInstall = ''
            patchShebangs scripts
            scripts/install.sh "" $out $out/bin $out/etc
          '';
          meta = {
            description = "NixOS generations for containers";
            license = with pkgs.lib.licenses; [ mit asl20 ];
            mainProgram = "tank";
            platforms = systems;
          };
        };
    in
    {
      packages = each (pkgs: rec {
        tank = package pkgs;
        default = tank;
      });

      overlays.default = final: _: { tank = package final; };

      nixosModules.default = import ./packaging/nixos.nix self;

      devShells = each (pkgs: {
        default = pkgs.mkShell {
          inputsFrom = [ (package pkgs) ];
          packages = [ pkgs.cargo pkgs.rustc pkgs.clippy pkgs.rustfmt pkgs.nftables pkgs.iproute2 ];
        };
      });
    };
}
