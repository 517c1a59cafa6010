from hamux_zoo.app import make_app

make_app().launch()
