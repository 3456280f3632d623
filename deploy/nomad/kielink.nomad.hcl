# An example app with kielink beside it. The tasks of a group share loopback (bridge mode).
job "example" {
  type = "service"

  group "example" {
    # Every group has a kielink, and every kielink keeps its own account of upstream.rate and its own links.
    count = 2

    network {
      mode = "bridge"
    }

    task "kielink" {
      driver = "docker"
      user   = "65532:65532"

      # Started before the app, stopped after it.
      lifecycle {
        hook    = "prestart"
        sidecar = true
      }

      config {
        image           = "kielink:0.1.0"
        readonly_rootfs = true
        cap_drop        = ["ALL"]
        security_opt    = ["no-new-privileges"]
      }

      env {
        KIE_API_KEY_FILE = "${NOMAD_SECRETS_DIR}/kie_api_key"
        # Callers are not asked who they are: nobody outside of the group.
        KIELINK__SERVER__LISTEN = "127.0.0.1:8080"
        KIELINK__ADMIN__LISTEN  = "127.0.0.1:9090"
      }

      # A variable that only this task may read, by its path. In the file, and not in the environment: a new key is
      # written here, kielink sees it within two seconds, and nothing need be restarted or signalled.
      template {
        destination = "${NOMAD_SECRETS_DIR}/kie_api_key"
        change_mode = "noop"
        perms       = "0400"
        uid         = 65532
        gid         = 65532
        data        = <<-END
          {{- with nomadVar "nomad/jobs/example/example/kielink" }}{{ .kie_api_key }}{{ end -}}
        END
      }

      # Above server.drain_delay (0s) plus server.shutdown_grace (20s), or the last answers are cut off. A client's
      # max_kill_timeout (30s by default) is the most it can be.
      kill_timeout = "30s"

      # A kielink that ends is started again beside the app, however often.
      restart {
        attempts = 10
        interval = "1m"
        delay    = "1s"
        mode     = "delay"
      }

      resources {
        cpu    = 50
        memory = 64
      }
    }

    # Nomad does not wait until a sidecar is ready, only for prestart tasks that end: this one ends once it is.
    task "kielink-ready" {
      driver = "docker"
      user   = "65532:65532"

      lifecycle {
        hook    = "prestart"
        sidecar = false
      }

      config {
        image           = "kielink:0.1.0"
        args            = ["wait", "--max", "60s"]
        readonly_rootfs = true
        cap_drop        = ["ALL"]
        security_opt    = ["no-new-privileges"]
      }

      env {
        KIELINK__ADMIN__LISTEN = "127.0.0.1:9090"
      }

      resources {
        cpu    = 20
        memory = 32
      }
    }

    task "app" {
      driver = "docker"
      user   = "1000:1000"

      config {
        image = "kielink-example-app:0.1.0"
        # The example ends when it has its file; a service goes on.
        entrypoint   = ["sh", "-c", "trap 'exit 0' TERM; while :; do app; sleep 60 & wait $!; done"]
        cap_drop     = ["ALL"]
        security_opt = ["no-new-privileges"]
      }

      env {
        KIELINK_URL = "http://127.0.0.1:8080"
        SOURCE_URL  = "https://tempfile.aiquickdraw.com/FILE"
      }

      resources {
        cpu    = 50
        memory = 64
      }
    }
  }
}
