#!/usr/bin/env escript
%% Erlang's ssh_sftpd: erlang.escript SYSTEM_DIR USER PASSWORD. It prints the port.
%% SYSTEM_DIR holds ssh_host_ed25519_key. It ends with its standard input.
main([Folder, User, Password]) ->
    {ok, _} = application:ensure_all_started(ssh),
    {ok, Daemon} = ssh:daemon({127,0,0,1}, 0,
        [{system_dir, Folder},
         {user_dir, Folder},
         {auth_methods, "password"},
         {user_passwords, [{User, Password}]},
         {subsystems, [ssh_sftpd:subsystem_spec([{cwd, "/"}])]}]),
    {ok, Facts} = ssh:daemon_info(Daemon),
    io:format("~b~n", [proplists:get_value(port, Facts)]),
    io:get_line("").
