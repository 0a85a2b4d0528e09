# `services.tank` of NixOS: the daemon, and what it is switched to when the system is.
self:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.tank;
  toml = pkgs.formats.toml { };
in
{
  options.services.tank = {
    enable = lib.mkEnableOption "Tank, which keeps this host as its current generation declares";

    package = lib.mkOption {
      type = lib.types.package;
      default = self.packages.${pkgs.stdenv.hostPlatform.system}.default;
      defaultText = lib.literalExpression "tank.packages.\${system}.default";
      description = "The programs.";
    };

    pods = lib.mkOption {
      type = lib.types.nullOr lib.types.path;
      default = null;
      example = lib.literalExpression "./pods.ncl";
      description = ''
        The configuration that a switch of the system switches the pods to. One that does not become healthy is gone
        back from, and the unit `tank-switch` fails. Null: pods are switched to by hand.
      '';
    };

    settings = lib.mkOption {
      type = toml.type;
      default = { };
      example = {
        keep_for = "90d";
      };
      description = "`/etc/tank/tank.toml`.";
    };
  };

  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];
    environment.etc."tank/tank.toml".source = toml.generate "tank.toml" cfg.settings;
    users.groups.tank = { };

    # Their units are the package's own.
    systemd.packages = [ cfg.package ];
    systemd.sockets.tankd.wantedBy = [ "sockets.target" ];
    systemd.services.tank-pods = {
      wantedBy = [ "multi-user.target" ];
      restartIfChanged = false;
    };
    systemd.services.tankd = {
      wantedBy = [ "multi-user.target" ];
      # Containers go on meanwhile.
      restartTriggers = [ config.environment.etc."tank/tank.toml".source ];
    };

    systemd.services.tank-switch = lib.mkIf (cfg.pods != null) {
      description = "Switch Tank's pods to what the system declares";
      wantedBy = [ "multi-user.target" ];
      requires = [ "tankd.service" ];
      after = [ "tankd.service" ];
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
        ExecStart = "${cfg.package}/bin/tank switch ${cfg.pods}";
      };
    };
  };
}
